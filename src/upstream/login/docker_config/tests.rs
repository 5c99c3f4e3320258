use super::super::exec::tests::program;
use super::*;

fn basic(username: &str, password: &str) -> Login {
    Login::Basic(Credentials {
        username: username.to_owned(),
        password: Secret::new(password.to_owned()),
    })
}

fn parse(json: &str) -> File {
    serde_json::from_str(json).unwrap()
}

fn login(json: &str, registry: &str) -> Option<Login> {
    match parse(json).find(registry).unwrap() {
        Found::Login(login) => login,
        Found::Helper(name) => panic!("{name}"),
    }
}

fn helper(json: &str, registry: &str) -> Option<String> {
    match parse(json).find(registry).unwrap() {
        Found::Login(_) => None,
        Found::Helper(name) => Some(name),
    }
}

#[test]
fn keys_match_registries_as_with_docker() {
    for (key, registry, expected) in [
        ("ghcr.io", "ghcr.io", true),
        ("GHCR.io", "ghcr.io", true),
        ("https://ghcr.io", "ghcr.io", true),
        ("https://ghcr.io/", "ghcr.io", true),
        ("https://ghcr.io/v1/", "ghcr.io", true),
        ("http://ghcr.io/v2", "ghcr.io", true),
        ("ghcr.io:443", "ghcr.io", false),
        ("ghcr.io", "ghcr.io:5000", false),
        ("r.example:5000", "r.example:5000", true),
        ("http://r.example:5000/v2/", "r.example:5000", true),
        ("r.example:5000", "r.example", false),
        ("r.example:5000", "r.example:5001", false),
        ("xghcr.io", "ghcr.io", false),
        ("ghcr.io.evil.example", "ghcr.io", false),
        ("https://evil.example/ghcr.io", "ghcr.io", false),
        // podman's namespaces
        ("quay.io/team", "quay.io", false),
        // Docker Hub
        ("https://index.docker.io/v1/", "docker.io", true),
        ("https://index.docker.io/v1/", "registry-1.docker.io", true),
        ("https://index.docker.io/v1/", "index.docker.io", true),
        ("index.docker.io", "registry-1.docker.io", true),
        ("docker.io", "registry-1.docker.io", true),
        ("registry-1.docker.io", "docker.io", true),
        ("https://index.docker.io/v1/", "mirror.docker.io", false),
        ("hub.docker.com", "docker.io", false),
        ("", "docker.io", false),
    ] {
        let json = format!(r#"{{"auths":{{"{key}":{{"auth":"dTpw"}}}}}}"#);
        let found = login(&json, registry);
        assert_eq!(found.is_some(), expected, "{key} for {registry}");
    }
}

#[test]
fn the_name_that_docker_itself_uses_counts_most() {
    let json = r#"{"auths":{
        "docker.io":{"username":"c","password":"c"},
        "https://index.docker.io/v1/":{"username":"a","password":"a"},
        "http://r.example/v1/":{"username":"d","password":"d"},
        "r.example":{"username":"b","password":"b"}}}"#;
    assert_eq!(login(json, "docker.io"), Some(basic("a", "a")));
    assert_eq!(login(json, "r.example"), Some(basic("b", "b")));
}

#[test]
fn an_entry_holds_one_of_several_things() {
    let entry = |json: &str| {
        let entry: Entry = serde_json::from_str(json).unwrap();
        entry.login()
    };
    let secret = |text: &str| Secret::new(text.to_owned());
    let up = || Ok(Some(basic("u", "p")));
    assert_eq!(entry("{}"), Ok(None));
    assert_eq!(entry(r#"{"auth":""}"#), Ok(None));
    assert_eq!(entry(r#"{"auth":null,"email":"x@y"}"#), Ok(None));
    assert_eq!(entry(r#"{"auth":"dTpw"}"#), up());
    assert_eq!(entry(r#"{"username":"u","password":"p"}"#), up());
    assert_eq!(entry(r#"{"username":"u"}"#), Ok(None));
    assert_eq!(
        entry(r#"{"auth":"dTpw","username":"x","password":"y"}"#),
        up()
    );
    // "u:p:q", and "u:p" with two NULs
    assert_eq!(entry(r#"{"auth":"dTpwOnE="}"#), Ok(Some(basic("u", "p:q"))));
    assert_eq!(entry(r#"{"auth":"dTpwAAA="}"#), up());
    // Azure, after `az acr login`
    assert_eq!(
        entry(r#"{"auth":"MDAwMDo=","identitytoken":"i"}"#),
        Ok(Some(Login::Refresh(secret("i"))))
    );
    assert_eq!(
        entry(r#"{"identitytoken":"i","registrytoken":"r"}"#),
        Ok(Some(Login::Bearer(secret("r"))))
    );
    for bad in ["s3cret", "dXA=", "/w=="] {
        let error = entry(&format!(r#"{{"auth":"{bad}"}}"#)).unwrap_err();
        assert_eq!(error, "an `auth` is no base64 of user:password");
    }
}

#[test]
fn a_helper_of_the_registry_counts_before_the_store_before_the_file() {
    let json = r#"{"auths":{"a.example":{"auth":"dTpw"}, "b.example":{"auth":"dTpw"}},
        "credsStore":"desktop", "credHelpers":{"a.example":"ecr-login","c.example":"","docker.io":"hub"}}"#;
    assert_eq!(helper(json, "a.example").as_deref(), Some("ecr-login"));
    assert_eq!(helper(json, "b.example").as_deref(), Some("desktop"));
    assert_eq!(helper(json, "c.example"), None);
    let hub = helper(json, "registry-1.docker.io");
    assert_eq!(hub.as_deref(), Some("hub"));
    let empty = r#"{"auths":null,"credsStore":"","credHelpers":null}"#;
    assert_eq!(login(empty, "a.example"), None);
    for name in ["../x", "x/y", "a b", "a;b"] {
        let json = format!(r#"{{"credsStore":"{name}"}}"#);
        assert!(parse(&json).find("a.example").is_err(), "{name}");
    }
}

#[expect(clippy::disallowed_methods, reason = "the test owns its files")]
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// Docker's configuration in a folder, with helpers in the same folder.
fn docker(dir: &Path, registry: &str, json: &str) -> Docker {
    let path = dir.join("config.json");
    write(&path, json);
    Docker {
        helper_prefix: dir.join("docker-credential-").into_os_string(),
        ..Docker::new(path, registry.to_owned())
    }
}

#[tokio::test]
async fn helpers_are_asked_for_the_registry_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"printf '{"Username":"%s","Secret":"%s"}' "$*" "$(cat)""#;
    program(dir.path(), "docker-credential-echo", script);
    for (registry, server) in [
        ("ghcr.io", "ghcr.io"),
        ("r.example:5000", "r.example:5000"),
        ("registry-1.docker.io", "https://index.docker.io/v1/"),
    ] {
        let docker = docker(dir.path(), registry, r#"{"credsStore":"echo"}"#);
        let given = docker.fetch().await.unwrap();
        assert_eq!(given.login, Some(basic("get", server)));
        assert_eq!(given.good_for, Some(HELPER_TTL));
    }
}

#[tokio::test]
async fn what_the_file_holds_lasts_until_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let docker = docker(
        dir.path(),
        "a.example",
        r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#,
    );
    let given = docker.fetch().await.unwrap();
    assert_eq!(given.login, Some(basic("u", "p")));
    assert_eq!(given.good_for, None);
}

#[tokio::test]
async fn errors_name_the_file_or_the_program_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let path = path.to_str().unwrap();
    for (json, expected) in [
        (
            r#"{"auths":"s3cret"}"#,
            format!("{path}: no configuration of Docker's: line 1, column "),
        ),
        (
            r#"{"auths":{"a.example":{"auth":"s3cret"}}}"#,
            format!("{path}: an `auth` is no base64 of user:password"),
        ),
        (
            r#"{"auths":{"a.example":{"auth":["s3cret"]}}}"#,
            format!("{path}: no configuration of Docker's: line 1, column "),
        ),
        (
            r#"{"credHelpers":{"a.example":"none"}}"#,
            "docker-credential-none: cannot be started: entity not found".to_owned(),
        ),
    ] {
        let Err(error) = docker(dir.path(), "a.example", json).fetch().await else {
            panic!("{json}");
        };
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("credentials: {expected}")),
            "{text}"
        );
        assert!(!text.contains("s3cret"), "{text}");
    }
    let large = " ".repeat(1024 * 1024 + 1);
    assert!(
        docker(dir.path(), "a.example", &large)
            .fetch()
            .await
            .is_err()
    );
}
