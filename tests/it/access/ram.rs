//! Policies of Alibaba Cloud's RAM, pasted.

use super::House;

const ALPINE: &str = "/v2/library/alpine/manifests/v1";
const SECRET: &str = "/v2/acme/secret/manifests/v1";

const RULES: &str = r#"
[access]
htpasswd = HTPASSWD
[[access.policy]]
name = "team"
document_upstream = "docker.io"
document = '''
{
  "Version": "1",
  "Statement": [
    { "Effect": "Allow", "Action": ["cr:PullRepository"], "Resource": "acs:cr:*:*:repository/*/library/*",
      "Condition": { "IpAddress": { "acs:SourceIp": "127.0.0.0/8" } } },
    { "Effect": "Allow", "Action": "cr:*", "Resource": "acs:cr:*:*:repository/acme/*",
      "Condition": { "IpAddress": { "acs:SourceIp": "10.0.0.0/8" } } }
  ]
}
'''
[[access.policy]]
name = "everything"
document_upstream = "docker.io"
document_file = DOCUMENT
[[access.attach]]
user = "alice"
policies = ["team"]
[[access.attach]]
user = "bob"
policies = ["everything"]
"#;

/// The system policy `AliyunContainerRegistryFullAccess`.
const FULL: &str = r#"{ "Statement": [ { "Action": "cr:*", "Effect": "Allow", "Resource": "*" } ], "Version": "1" }"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pasted_policy_decides() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("full.json");
    std::fs::write(&file, FULL).unwrap();
    let rules = RULES.replace("DOCUMENT", &format!("{file:?}"));
    let house = House::with(&["alice", "bob", "carol"], &rules).await;
    assert_eq!(house.status("alice", ALPINE).await, 200);
    assert_eq!(
        house.status("alice", SECRET).await,
        403,
        "from another network"
    );
    assert_eq!(house.status("bob", ALPINE).await, 200);
    assert_eq!(house.status("bob", SECRET).await, 200);
    assert_eq!(house.status("carol", ALPINE).await, 403);
    assert_eq!(house.status("", ALPINE).await, 401);
}
