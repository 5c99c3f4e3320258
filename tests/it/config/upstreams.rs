//! Upstreams: endpoints with their own options, proxies, and what `check` prints of them.

use std::path::Path;

use roadstead::config::{Config, Overrides};
use roadstead::upstream::{
    CloudConfig, Credentials, EndpointConfig, LoginConfig, Parallel, Proxy, ProxyConfig, Secret,
    Strategy, Text,
};

use super::{Written, default_of, environment, file, layers, literal, login, upstream};

/// The first endpoint of an upstream with these keys after its `endpoints`.
fn endpoint(text: &str, environment: &[(&str, &str)]) -> EndpointConfig {
    let written = Written::new(&format!("[upstream.\"a.io\"]\n{text}\n"));
    let config = written.load(environment, Overrides::default()).unwrap();
    upstream(&config, "a.io")
        .endpoints
        .first()
        .cloned()
        .unwrap()
}

fn through(url: &str, user: Option<(&str, &str)>) -> ProxyConfig {
    ProxyConfig::Through(Proxy {
        url: url.parse().unwrap(),
        credentials: user.map(|(username, password)| Credentials {
            username: username.to_owned(),
            password: Secret::new(password.to_owned()),
        }),
    })
}

#[test]
fn an_only_upstream_is_the_default_unless_it_says_no() {
    let only = "[upstream.\"a.io\"]\nendpoints = [\"http://a\"]\n";
    assert_eq!(default_of(&file(only).unwrap()), Some("a.io"));
    assert_eq!(
        default_of(&file(&format!("{only}default = false\n")).unwrap()),
        None
    );
    let flags = |list: &[&str]| Overrides {
        upstream: list.iter().map(|&text| text.to_owned()).collect(),
        ..Overrides::default()
    };
    let default = |list: &[&str]| {
        let config = layers(&[], &flags(list)).unwrap();
        default_of(&config).map(str::to_owned)
    };
    assert_eq!(default(&["a.io=http://a"]).as_deref(), Some("a.io"));
    assert_eq!(
        default(&["a.io=http://a", "docker.io=http://d"]).as_deref(),
        Some("docker.io")
    );
    assert_eq!(default(&["a.io=http://a", "b.io=http://b"]), None);
}

#[test]
fn an_endpoint_has_its_own_options() {
    let text = "endpoints = [\"https://b\"]\nproxy = \"http://usual:1\"\nusername = \"u\"\npassword = \"p\"";
    let table =
        "{ url = \"https://a/x\", ca_file = \"/ca\", client_cert = \"/c\", client_key = \"/k\",
        insecure_skip_verify = true, proxy = \"direct\", resolve = [\"10.0.0.1\", \"::1\"],
        redirect_networks = [\"10.0.0.0/8\", \"fd00::1\"], headers = { \"X-B\" = \"hunter2\", x-a = \"2\" }, username = \"own\", password = \"pw\" }"
            .replace('\n', " ");
    let text = text.replace("\"https://b\"", &format!("\"https://b\", {table}"));
    let config = file(&format!("[upstream.\"a.io\"]\n{text}\n")).unwrap();
    let [plain, own] = &upstream(&config, "a.io").endpoints[..] else {
        panic!("not two endpoints");
    };
    assert_eq!(plain.proxy, through("http://usual:1", None));
    assert_eq!(plain.logins, None);
    assert_eq!(own.url.as_str(), "https://a/x");
    assert_eq!(own.ca_file.as_deref(), Some(Path::new("/ca")));
    let shown = own.client_certificate.as_ref().unwrap();
    assert_eq!(
        (&*shown.cert, &*shown.key),
        (Path::new("/c"), Path::new("/k"))
    );
    assert!(own.insecure_skip_verify);
    assert_eq!(own.proxy, ProxyConfig::Direct);
    let addresses: Vec<_> = own.resolve.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1", "::1"]);
    let networks = own.redirect_networks.iter().map(ToString::to_string);
    assert_eq!(networks.collect::<Vec<_>>(), ["10.0.0.0/8", "fd00::1/128"]);
    let names: Vec<_> = own.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-b", "x-a"], "in the order of the file");
    assert!(own.headers.iter().all(|(_, value)| value.is_sensitive()));
    assert_eq!(own.logins, Some(vec![login("own", "pw")]));
    assert!(!format!("{config:?}").contains("hunter2"));
    let nobody = endpoint(
        "endpoints = [{ url = \"https://a\", credentials = [] }]",
        &[],
    );
    assert_eq!(nobody.logins, Some(Vec::new()), "and not the upstream's");
}

#[test]
fn the_environment_sets_every_option_of_an_upstream() {
    let variables = [
        ("PARALLEL_ABOVE", "8MiB"),
        ("SEGMENT_SIZE", "2MiB"),
        ("PARALLEL", "7"),
        ("MAX_CONNECTIONS", "9"),
        ("STRATEGY", "fastest"),
        ("PROXY", "http://proxy:3128"),
        ("USERNAME_ENV", "USER"),
        ("PASSWORD_ENV", "TOKEN"),
    ]
    .map(|(key, value)| (format!("ROADSTEAD_UPSTREAM__GHCR_IO__{key}"), value));
    let mut variables: Vec<_> = variables
        .iter()
        .map(|(key, value)| (&**key, *value))
        .collect();
    variables.extend([("USER", "u"), ("TOKEN", "t")]);
    let config = environment(&variables).unwrap();
    let ghcr = upstream(&config, "ghcr.io");
    let parallel = Parallel {
        connections: 7,
        above: 8 << 20,
        segment_size: 2 << 20,
    };
    assert_eq!((ghcr.parallel, ghcr.max_connections), (parallel, 9));
    assert_eq!(ghcr.strategy, Strategy::Fastest);
    assert_eq!(ghcr.endpoints[0].proxy, through("http://proxy:3128", None));
    assert_eq!(ghcr.logins, [login("u", "t")]);
}

#[test]
fn endpoints_may_be_tables_of_their_own() {
    let text = "[[upstream.\"a.io\".endpoints]]\nurl = \"https://a\"\nresolve = \"10.0.0.1\"\n[[upstream.\"a.io\".endpoints]]\nurl = \"https://b\"\n";
    let config = file(text).unwrap();
    let endpoints = &upstream(&config, "a.io").endpoints;
    assert_eq!(endpoints[0].resolve.len(), 1);
    assert_eq!(endpoints[1].url.as_str(), "https://b/");
    let error = file(&text.replace("url = \"https://b\"", "")).unwrap_err();
    assert_eq!(
        error,
        "config.toml:4: upstream.\"a.io\".endpoints.url: is missing in this endpoint"
    );
}

#[test]
fn proxies_in_every_form() {
    let of = |line: &str| endpoint(&format!("endpoints = [\"https://a\"]\n{line}"), &[]).proxy;
    for (line, expected) in [
        ("", ProxyConfig::Direct),
        ("proxy = \"environment\"", ProxyConfig::Direct),
        ("proxy = \"direct\"", ProxyConfig::Direct),
        ("proxy = \"http://p:3128\"", through("http://p:3128", None)),
        ("proxy = \"https://p\"", through("https://p", None)),
        (
            "proxy = \"socks5://u%40corp:p%3Aw@p:1080\"",
            through("socks5://p:1080", Some(("u@corp", "p:w"))),
        ),
        (
            "proxy = \"socks5h://[::1]:1080\"",
            through("socks5h://[::1]:1080", None),
        ),
        (
            "proxy = \"http://u@p\"",
            through("http://p", Some(("u", ""))),
        ),
        ("proxy = { url = \"http://p\" }", through("http://p", None)),
        (
            "proxy = { url = \"http://p\", username = \"u\", password = \"w\" }",
            through("http://p", Some(("u", "w"))),
        ),
    ] {
        assert_eq!(of(line), expected, "{line}");
    }
    let written = Written::new("").with("secret", "from file\n");
    let path = written.dir.path().join("secret");
    let line =
        format!("proxy = {{ url = \"http://p\", username = \"u\", password_file = {path:?} }}");
    assert_eq!(of(&line), through("http://p", Some(("u", "from file"))));
}

#[test]
fn the_environments_proxies_are_used_unless_something_else_is_said() {
    let variables = [
        ("HTTP_PROXY", "http://upper"),
        ("http_proxy", "lower:3128"),
        ("HTTPS_PROXY", "http://u:hunter2@secure:1"),
        ("ALL_PROXY", " "),
        ("NO_PROXY", ".corp,10.0.0.0/8"),
    ];
    let plain = "endpoints = [\"https://a\"]";
    let ProxyConfig::Environment(proxies) = endpoint(plain, &variables).proxy else {
        panic!("the environment was not used");
    };
    let secret = |text: &str| Some(Secret::new(text.to_owned()));
    assert_eq!(proxies.http, secret("lower:3128"), "as curl has it");
    assert_eq!(proxies.https, secret("http://u:hunter2@secure:1"));
    assert_eq!(proxies.all, None, "a blank variable says nothing");
    assert_eq!(proxies.no, ".corp,10.0.0.0/8");
    let direct = format!("{plain}\nproxy = \"direct\"");
    assert_eq!(endpoint(&direct, &variables).proxy, ProxyConfig::Direct);
    let only_no = [("no_proxy", "*")];
    assert_eq!(endpoint(plain, &only_no).proxy, ProxyConfig::Direct);

    // What check prints means the same where the same variables are set.
    let written = Written::new(&format!("[upstream.\"a.io\"]\n{plain}\n"));
    let config = written.load(&variables, Overrides::default()).unwrap();
    let printed = config.to_toml();
    assert!(printed.contains("proxy = \"environment\""), "{printed}");
    assert!(!printed.contains("hunter2"), "{printed}");
    let again = Written::new(&printed).load(&variables, Overrides::default());
    assert_eq!(again.unwrap(), config);
}

#[test]
fn a_malformed_proxy_of_the_environment_is_named_and_its_password_is_not() {
    let written = Written::new("[upstream.\"a.io\"]\nendpoints = [\"https://a\"]\n");
    for (variable, value, expected) in [
        (
            "https_proxy",
            "ftp://u:hunter2@p",
            "https_proxy: \"ftp://***@p\" is not an http, https, socks5 or socks5h URL",
        ),
        (
            "ALL_PROXY",
            "http://p/pac",
            "ALL_PROXY: \"http://p/pac\" must end after the host and port",
        ),
    ] {
        let error = written.load(&[(variable, value)], Overrides::default());
        assert_eq!(error.unwrap_err(), expected);
    }
    // Nobody asks for them where each upstream says otherwise.
    let direct = "[upstream.\"a.io\"]\nendpoints = [\"https://a\"]\nproxy = \"direct\"\n";
    let variables = [("https_proxy", "ftp://p")];
    let config = Written::new(direct).load(&variables, Overrides::default());
    assert!(config.is_ok());
}

#[test]
fn what_check_prints_of_upstreams_is_the_same() {
    let full = "
        [upstream.\"localhost:5000\"]
        endpoints = [\"http://a/prefix/\", { url = \"https://b\", ca_file = \"/ca.pem\" },
          { url = \"https://c\", client_cert = \"/c\", client_key = \"/k\", insecure_skip_verify = true,
            proxy = \"direct\", resolve = \"::1\", headers = { X-B = \"hunter2\", \"x-a\" = \"hunter2\" },
            docker_config = \"SECRET\" },
          { url = \"https://d\", credentials = [] },
          { url = \"https://e\", proxy = \"http://f\", credentials = { exec = [\"p\", \"\"], ttl = \"1h\" } }]
        default = false\nhosts = [\"M.corp\"]\nusername = 'u\"x'\npassword = \"hunter2\"
        strategy = \"fastest\"\nproxy = \"socks5h://me:hunter2@p:1\"\nmax_connections = 3
        connect_timeout = \"90s\"\nheader_timeout = \"1s\"\nidle_timeout = \"2h\"\nparallel = 64
        parallel_above = 1\nsegment_size = \"1MiB\"
        [upstream.\"b.io\"]\nendpoints = [\"https://b\"]\ncredentials = [
          { username_file = \"SECRET\", password_file = \"SECRET\" },
          { docker_config = \"SECRET\" }, { exec = [\"p\"], timeout = \"3s\" },
          { provider = \"ecr\", region = \"r\", access_key_id = \"AKID\", secret_access_key = \"hunter2\",
            session_token = \"hunter2\", api_url = \"https://api/x\", identity_url = \"http://sts\", metadata_url = \"http://m\" },
          { provider = \"ecr\", role_arn = \"arn\", web_identity_token_file = \"SECRET\" },
          { provider = \"gar\", key_file = \"SECRET\" }, { provider = \"gar\" },
          { provider = \"acr-azure\", tenant_id = \"t\", client_id = \"c\", client_secret_file = \"SECRET\" },
          { provider = \"acr-azure\", tenant_id = \"t\", client_id = \"c\", client_secret = \"hunter2\" },
          { provider = \"acr-alibaba\", region = \"r\", instance_id = \"cri\", access_key_id_file = \"SECRET\", access_key_secret_file = \"SECRET\", session_token_file = \"SECRET\" },
          { provider = \"acr-alibaba\", ram_role = \"role\" },
          { provider = \"tcr\", region = \"r\", instance_id = \"i\", secret_id = \"SID\", secret_key = \"hunter2\" },
          { provider = \"tcr\", region = \"r\", instance_id = \"i\", cam_role = \"role\" }]
        [upstream.\"c.io\"]\nendpoints = [\"https://c\"]\ncredentials = { docker_config = \"SECRET\" }\n";
    let files = Written::new("").with("secret", "from a file");
    let path = files.dir.path().join("secret");
    let full = full.replace("SECRET", path.to_str().unwrap());
    let mut config = file(&full).unwrap();
    let printed = config.to_toml();
    assert!(!printed.contains("hunter2"), "{printed}");
    mask(&mut config);
    assert_eq!(file(&printed).unwrap(), config, "{printed}");
}

/// Replaces every secret by what stands for it.
fn mask(config: &mut Config) {
    for upstream in &mut config.upstreams {
        upstream.logins.iter_mut().for_each(mask_login);
        for endpoint in &mut upstream.endpoints {
            endpoint.logins.iter_mut().flatten().for_each(mask_login);
            for (_, value) in &mut endpoint.headers {
                *value = "***".parse().unwrap();
            }
            if let ProxyConfig::Through(proxy) = &mut endpoint.proxy
                && let Some(credentials) = &mut proxy.credentials
            {
                credentials.password = Secret::new("***".to_owned());
            }
        }
    }
}

fn mask_login(login: &mut LoginConfig) {
    let mask = |text: &mut Text| {
        if matches!(text, Text::Literal(_)) {
            *text = literal("***");
        }
    };
    match login {
        LoginConfig::Password { password, .. } => mask(password),
        LoginConfig::DockerConfig(_)
        | LoginConfig::Exec { .. }
        | LoginConfig::Cloud(CloudConfig::Gar { .. }) => {}
        LoginConfig::Cloud(
            CloudConfig::Ecr {
                keys,
                session_token,
                ..
            }
            | CloudConfig::AlibabaAcr {
                keys,
                session_token,
                ..
            }
            | CloudConfig::Tcr {
                keys,
                session_token,
                ..
            },
        ) => {
            if let Some((_, key)) = keys {
                mask(key);
            }
            session_token.iter_mut().for_each(mask);
        }
        LoginConfig::Cloud(CloudConfig::AzureAcr { client_secret, .. }) => {
            client_secret.iter_mut().for_each(mask);
        }
    }
}
