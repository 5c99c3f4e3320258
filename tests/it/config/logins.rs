//! Who roadstead is to an upstream: every way to say it.

use std::path::PathBuf;
use std::time::Duration;

use roadstead::config::Overrides;
use roadstead::upstream::{CloudConfig, CloudUrls, LoginConfig, Text};

use super::{Written, literal, login, upstream};

/// The logins of an upstream with these lines. `SECRET` stands for a file.
fn logins(lines: &str, environment: &[(&str, &str)]) -> Result<Vec<LoginConfig>, String> {
    at("https://a", lines, environment)
}

fn at(
    endpoint: &str,
    lines: &str,
    environment: &[(&str, &str)],
) -> Result<Vec<LoginConfig>, String> {
    let written = Written::new("").with("secret", "from file\r\n\n");
    let path = written.dir.path().join("secret");
    let path = path.to_str().unwrap();
    let lines = lines.replace("SECRET", path);
    let text = format!("[upstream.\"a.io\"]\nendpoints = [\"{endpoint}\"]\n{lines}\n");
    let written = written.with("config.toml", &text);
    let variables: Vec<_> = environment
        .iter()
        .map(|(name, value)| (*name, if *value == "SECRET" { path } else { value }))
        .collect();
    let config = written.load(&variables, Overrides::default())?;
    let mut logins = upstream(&config, "a.io").logins.clone();
    logins.iter_mut().for_each(forget);
    Ok(logins)
}

/// The name of the temporary file is `SECRET` again.
fn forget(login: &mut LoginConfig) {
    let is_ours = |path: &PathBuf| path.ends_with("secret");
    match login {
        LoginConfig::Password { username, password } => {
            for text in [username, password] {
                if matches!(text, Text::File(path) if is_ours(path)) {
                    *text = secret_file();
                }
            }
        }
        LoginConfig::DockerConfig(path) if is_ours(path) => *path = "SECRET".into(),
        LoginConfig::Cloud(CloudConfig::Gar { key_file, .. }) => {
            *key_file = key_file.take().map(|_| "SECRET".into());
        }
        LoginConfig::Cloud(CloudConfig::Ecr { web_identity, .. }) => {
            if let Some((_, file)) = web_identity {
                *file = "SECRET".into();
            }
        }
        LoginConfig::DockerConfig(_) | LoginConfig::Exec { .. } | LoginConfig::Cloud(_) => {}
    }
}

fn secret_file() -> Text {
    Text::File("SECRET".into())
}

#[test]
fn passwords_come_from_three_places_and_a_stronger_layer_wins() {
    let with = |line: &str, environment: &[(&str, &str)]| {
        logins(&format!("username = \"u\"\n{line}"), environment).unwrap()
    };
    let of = |text: &str| vec![login("u", text)];
    let of_file = vec![LoginConfig::Password {
        username: literal("u"),
        password: secret_file(),
    }];
    assert_eq!(with("password = \"direct\"", &[]), of("direct"));
    assert_eq!(
        with("password_file = \"SECRET\"", &[]),
        of_file,
        "read again when it changes"
    );
    assert_eq!(
        with("password_env = \"TOKEN\"", &[("TOKEN", "from env")]),
        of("from env")
    );
    // Its name may look like one of ours.
    let ours = [("ROADSTEAD_TOKEN", "t")];
    assert_eq!(with("password_env = \"ROADSTEAD_TOKEN\"", &ours), of("t"));
    let variable = [("ROADSTEAD_UPSTREAM__A_IO__PASSWORD", "stronger")];
    assert_eq!(
        with("password_file = \"SECRET\"", &variable),
        of("stronger")
    );
}

#[test]
fn user_names_do_too() {
    let of_file = vec![LoginConfig::Password {
        username: secret_file(),
        password: literal("p"),
    }];
    let lines = "username_file = \"SECRET\"\npassword = \"p\"";
    assert_eq!(logins(lines, &[]), Ok(of_file));
    let lines = "username_env = \"ROADSTEAD_USER\"\npassword = \"p\"";
    let variables = [("ROADSTEAD_USER", "u")];
    assert_eq!(logins(lines, &variables), Ok(vec![login("u", "p")]));
    let colon = [("ROADSTEAD_USER", "u:v")];
    assert_eq!(
        logins(lines, &colon).unwrap_err(),
        "config.toml:3: upstream.\"a.io\".username_env: must not contain a colon"
    );
}

#[test]
fn an_empty_or_endless_password_file_is_refused() {
    let with = |content: &str| {
        let text = "[upstream.\"a.io\"]\nendpoints = [\"https://a\"]\nusername = \"u\"\n";
        let written = Written::new("").with("secret", content);
        let path = written.dir.path().join("secret");
        let written = written.with("config.toml", &format!("{text}password_file = {path:?}\n"));
        written.load(&[], Overrides::default()).unwrap_err()
    };
    let why = with("\n");
    assert!(
        why.ends_with("password_file: the password is empty"),
        "{why}"
    );
    let why = with(&"x".repeat(64 * 1024 + 1));
    assert!(why.ends_with("it is larger than 65536 bytes"), "{why}");
}

#[test]
fn a_user_of_the_environment_replaces_a_pool_of_the_file() {
    let pool = "credentials = [{ username = \"a\", password = \"1\" }, { username = \"b\", password_env = \"ROADSTEAD_B\" }]";
    let b = ("ROADSTEAD_B", "2");
    assert_eq!(
        logins(pool, &[b]).unwrap(),
        [login("a", "1"), login("b", "2")]
    );
    let user = ("ROADSTEAD_UPSTREAM__A_IO__USERNAME", "c");
    let password = ("ROADSTEAD_UPSTREAM__A_IO__PASSWORD", "3");
    assert_eq!(
        logins(pool, &[b, user, password]).unwrap(),
        [login("c", "3")]
    );
    let docker = ("ROADSTEAD_UPSTREAM__A_IO__DOCKER_CONFIG", "SECRET");
    assert_eq!(
        logins(pool, &[b, docker]).unwrap(),
        [LoginConfig::DockerConfig("SECRET".into())]
    );
    assert_eq!(
        logins("", &[user, password, docker]).unwrap_err(),
        "ROADSTEAD_UPSTREAM__A_IO__DOCKER_CONFIG: upstream.\"a.io\".docker_config: username is given too; \
         only one of them can be (see ROADSTEAD_UPSTREAM__A_IO__USERNAME)"
    );
}

#[test]
fn entries_of_a_pool_are_of_every_kind() {
    let exec = |command: &[&str], timeout, ttl| LoginConfig::Exec {
        command: command.iter().map(|&word| word.to_owned()).collect(),
        timeout: Duration::from_secs(timeout),
        ttl: Duration::from_secs(ttl),
    };
    let gar = CloudConfig::Gar {
        key_file: Some("SECRET".into()),
        urls: CloudUrls::default(),
    };
    let cases = [
        ("{ username = \"u\", password = \"p\" }", login("u", "p")),
        (
            "{ docker_config = \"SECRET\" }",
            LoginConfig::DockerConfig("SECRET".into()),
        ),
        ("{ exec = [\"p\", \"get\"] }", exec(&["p", "get"], 10, 300)),
        (
            "{ exec = [\"p\"], timeout = \"2s\", ttl = \"1h\" }",
            exec(&["p"], 2, 3600),
        ),
        (
            "{ provider = \"gar\", key_file = \"SECRET\" }",
            LoginConfig::Cloud(gar),
        ),
    ];
    let tables: Vec<_> = cases.iter().map(|(table, _)| *table).collect();
    let expected: Vec<_> = cases.iter().map(|(_, login)| login.clone()).collect();
    let pool = format!("credentials = [{}]", tables.join(", "));
    assert_eq!(logins(&pool, &[]).unwrap(), expected);
    for (table, expected) in cases {
        let alone = logins(&format!("credentials = {table}"), &[]);
        assert_eq!(alone, Ok(vec![expected]), "{table}");
    }
}

#[test]
fn clouds_have_their_keys() {
    let urls = CloudUrls::default();
    for (table, expected) in [
        (
            "provider = \"ecr\", region = \"r\", access_key_id = \"i\", secret_access_key = \"s\", session_token = \"t\", api_url = \"https://api\"",
            CloudConfig::Ecr {
                region: Some("r".to_owned()),
                keys: Some((literal("i"), literal("s"))),
                session_token: Some(literal("t")),
                web_identity: None,
                urls: CloudUrls {
                    api: Some("https://api".parse().unwrap()),
                    ..CloudUrls::default()
                },
            },
        ),
        (
            "provider = \"acr-azure\", client_id = \"c\"",
            CloudConfig::AzureAcr {
                tenant: None,
                client_id: Some("c".to_owned()),
                client_secret: None,
                urls: urls.clone(),
            },
        ),
        (
            "provider = \"acr-alibaba\", instance_id = \"cri-1\", ram_role = \"r\"",
            CloudConfig::AlibabaAcr {
                region: None,
                instance_id: Some("cri-1".to_owned()),
                keys: None,
                session_token: None,
                role: Some("r".to_owned()),
                urls: urls.clone(),
            },
        ),
        (
            "provider = \"tcr\", region = \"r\", instance_id = \"tcr-1\", secret_id = \"i\", secret_key_env = \"KEY\"",
            CloudConfig::Tcr {
                region: "r".to_owned(),
                instance_id: "tcr-1".to_owned(),
                keys: Some((literal("i"), literal("k"))),
                session_token: None,
                role: None,
                urls,
            },
        ),
    ] {
        let logins = logins(&format!("credentials = {{ {table} }}"), &[("KEY", "k")]);
        assert_eq!(logins, Ok(vec![LoginConfig::Cloud(expected)]), "{table}");
    }
}

fn ecr(
    region: Option<&str>,
    keys: Option<(&str, &str)>,
    token: Option<&str>,
    role: Option<&str>,
) -> Vec<LoginConfig> {
    vec![LoginConfig::Cloud(CloudConfig::Ecr {
        region: region.map(str::to_owned),
        keys: keys.map(|(id, key)| (literal(id), literal(key))),
        session_token: token.map(literal),
        web_identity: role.map(|role| (role.to_owned(), "SECRET".into())),
        urls: CloudUrls::default(),
    })]
}

const ECR: &str = "credentials = { provider = \"ecr\" }";
const KEYS_OF_ENVIRONMENT: &[(&str, &str)] = &[
    ("AWS_ACCESS_KEY_ID", "i"),
    ("AWS_SECRET_ACCESS_KEY", "s"),
    ("AWS_SESSION_TOKEN", "t"),
    ("AWS_REGION", "r"),
    ("AWS_DEFAULT_REGION", "not this"),
    ("AWS_ROLE_ARN", "not this"),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nonexistent"),
];
const ROLE_OF_ENVIRONMENT: &[(&str, &str)] = &[
    ("AWS_ROLE_ARN", "arn"),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", "SECRET"),
    ("AWS_DEFAULT_REGION", "r"),
];

#[test]
fn ecr_takes_what_the_environment_gives_where_the_file_says_nothing() {
    let (keys, role) = (KEYS_OF_ENVIRONMENT, ROLE_OF_ENVIRONMENT);
    let nothing = ecr(None, None, None, None);
    assert_eq!(logins(ECR, &[]).unwrap(), nothing, "the machine's role");
    let of_keys = ecr(Some("r"), Some(("i", "s")), Some("t"), None);
    assert_eq!(logins(ECR, keys).unwrap(), of_keys);
    let of_role = ecr(Some("r"), None, None, Some("arn"));
    assert_eq!(logins(ECR, role).unwrap(), of_role);
    let own = "access_key_id = \"a\", secret_access_key = \"b\"";
    let own = format!("credentials = {{ provider = \"ecr\", {own} }}");
    let of_own = ecr(Some("r"), Some(("a", "b")), None, None);
    assert_eq!(
        logins(&own, keys).unwrap(),
        of_own,
        "no session token of other keys"
    );
    let own = "credentials = { provider = \"ecr\", role_arn = \"mine\" }";
    assert_eq!(
        logins(own, role).unwrap(),
        ecr(Some("r"), None, None, Some("mine"))
    );
    for (given, expected) in [
        (
            &keys[..1],
            "AWS_ACCESS_KEY_ID: upstream.\"a.io\".credentials: needs AWS_SECRET_ACCESS_KEY",
        ),
        (
            &keys[1..2],
            "AWS_SECRET_ACCESS_KEY: upstream.\"a.io\".credentials: needs AWS_ACCESS_KEY_ID",
        ),
        (
            &keys[5..6],
            "AWS_ROLE_ARN: upstream.\"a.io\".credentials: needs AWS_WEB_IDENTITY_TOKEN_FILE",
        ),
        (
            &keys[5..],
            "AWS_WEB_IDENTITY_TOKEN_FILE: upstream.\"a.io\".credentials: \"/nonexistent\" cannot be read: No such file or directory (os error 2)",
        ),
    ] {
        assert_eq!(logins(ECR, given).unwrap_err(), expected);
    }
}

#[test]
fn where_roadstead_runs_is_not_where_the_registry_is() {
    for host in [
        "https://1.dkr.ecr.eu-west-1.amazonaws.com",
        "https://public.ecr.aws",
    ] {
        let of_role = ecr(None, None, None, Some("arn"));
        assert_eq!(at(host, ECR, ROLE_OF_ENVIRONMENT).unwrap(), of_role);
    }
}

#[test]
fn gar_takes_the_key_file_of_the_environment() {
    let line = "credentials = { provider = \"gar\" }";
    let gar = |key_file: Option<&str>| {
        Ok(vec![LoginConfig::Cloud(CloudConfig::Gar {
            key_file: key_file.map(PathBuf::from),
            urls: CloudUrls::default(),
        })])
    };
    assert_eq!(logins(line, &[]), gar(None));
    let variables = [("GOOGLE_APPLICATION_CREDENTIALS", "SECRET")];
    assert_eq!(logins(line, &variables), gar(Some("SECRET")));
}
