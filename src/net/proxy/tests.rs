use super::*;

fn environment(http: &str, https: &str, all: &str, no: &str) -> ProxyConfig {
    let value = |text: &str| (!text.is_empty()).then(|| Secret::new(text.to_owned()));
    ProxyConfig::Environment(EnvironmentProxies {
        http: value(http),
        https: value(https),
        all: value(all),
        no: no.to_owned(),
    })
}

fn through(url: &str) -> ProxyConfig {
    ProxyConfig::Through(Proxy {
        url: Url::parse(url).unwrap(),
        credentials: None,
    })
}

/// The way in short: `tunnel corp:3128`.
fn way(proxies: &Proxies, to: &str) -> String {
    let at = |server: &Server| format!("{}:{}", server.host, server.port);
    match proxies.route(&to.parse().unwrap()) {
        Route::Direct => "straight".to_owned(),
        Route::Forward(server) => format!("forward {}", at(&server)),
        Route::Tunnel(server) => format!("tunnel {}", at(&server)),
        Route::Socks(server, false) => format!("socks {}", at(&server)),
        Route::Socks(server, true) => format!("socks-names {}", at(&server)),
    }
}

#[test]
fn the_environment_chooses_by_scheme_and_host() {
    let both = environment(
        "h:1",
        "http://s:2",
        "",
        "in.example,10.0.0.0/8,x.example:5000",
    );
    let all = environment("h:1", " ", "socks5h://a", "");
    let plain = environment("http://h", "https://s", "", "");
    let cases = [
        (&both, "http://r.example/", "forward h:1"),
        (&both, "https://r.example/", "tunnel s:2"),
        (&both, "https://a.in.example/", "straight"),
        (&both, "http://10.1.1.1:5000/", "straight"),
        (&both, "http://x.example:5000/", "straight"),
        (&both, "http://x.example/", "forward h:1"),
        (&both, "https://127.0.0.1/", "straight"),
        (&both, "https://127.8.8.8:5000/", "straight"),
        (&both, "https://[::1]:5000/", "straight"),
        (&both, "http://localhost:5000/", "straight"),
        (&both, "http://a.localhost/", "straight"),
        (&both, "https://169.254.169.254/", "tunnel s:2"),
        (&all, "http://r.example/", "forward h:1"),
        (&all, "https://r.example/", "socks-names a:1080"),
        (&plain, "http://r.example/", "forward h:80"),
        (&plain, "https://r.example/", "tunnel s:443"),
    ];
    for (config, to, expected) in cases {
        let proxies = Proxies::new(config, None).unwrap();
        assert_eq!(way(&proxies, to), expected, "{config:?} {to}");
    }
}

#[test]
fn an_explicit_proxy_is_for_all_hosts() {
    let cases = [
        ("http://corp:3128", "http://127.0.0.1/", "forward corp:3128"),
        ("http://corp:3128", "https://r.example/", "tunnel corp:3128"),
        ("https://corp", "http://r.example/", "forward corp:443"),
        (
            "https://[2001:db8::1]",
            "https://r.example/",
            "tunnel [2001:db8::1]:443",
        ),
        ("socks5://corp", "http://localhost/", "socks corp:1080"),
        (
            "socks5h://corp:1",
            "https://r.example/",
            "socks-names corp:1",
        ),
    ];
    for (proxy, to, expected) in cases {
        let proxies = Proxies::new(&through(proxy), None).unwrap();
        assert_eq!(way(&proxies, to), expected, "{proxy} {to}");
    }
    let direct = Proxies::new(&ProxyConfig::Direct, None).unwrap();
    assert_eq!(way(&direct, "https://r.example/"), "straight");
}

/// A forwarding proxy would look up a name whose addresses are configured.
#[test]
fn a_host_with_fixed_addresses_is_reached_through_a_tunnel() {
    let pinned = Some("r.example".to_owned());
    let proxies = Proxies::new(&through("http://corp:3128"), pinned).unwrap();
    assert_eq!(way(&proxies, "http://R.example:80/"), "tunnel corp:3128");
    assert_eq!(way(&proxies, "http://cdn.example/"), "forward corp:3128");
}

#[test]
fn metadata_services_are_reached_straight() {
    for config in [
        through("http://corp:3128"),
        environment("http://corp:3128", "http://corp:3128", "", ""),
    ] {
        let apis = Proxies::for_apis(&config).unwrap();
        for straight in [
            "http://169.254.169.254/latest",
            "http://169.254.170.2/v2/credentials",
            "http://[fd00:ec2::254]/latest",
            "http://[fe80::1]/",
            "http://100.100.100.200/latest",
            "http://metadata.google.internal/computeMetadata",
            "http://metadata.google.internal./computeMetadata",
            "http://METADATA.tencentyun.com/latest",
            "http://127.0.0.1:40000/",
            "http://localhost:40000/",
        ] {
            assert_eq!(way(&apis, straight), "straight", "{straight}");
        }
        let cloud = "https://api.ecr.eu-west-1.amazonaws.com/";
        assert_eq!(way(&apis, cloud), "tunnel corp:3128");
        assert_eq!(way(&apis, "http://100.100.100.201/"), "forward corp:3128");
    }
}

#[test]
fn user_info_in_the_environment_becomes_credentials() {
    let proxy = from_variable("http://robot:p%40ss%3Aw0rd@corp:3128").unwrap();
    assert_eq!(proxy.url.as_str(), "http://corp:3128/");
    let credentials = proxy.credentials.clone().unwrap();
    assert_eq!(credentials.username, "robot");
    assert_eq!(credentials.password.expose(), "p@ss:w0rd");
    let server = Server::new(&proxy).unwrap();
    let header = server.authorization.as_ref().unwrap();
    assert_eq!(header, "Basic cm9ib3Q6cEBzczp3MHJk");
    assert!(header.is_sensitive());

    let proxy = from_variable("socks5://robot@corp").unwrap();
    assert_eq!(proxy.url.as_str(), "socks5://corp");
    assert_eq!(proxy.credentials.unwrap().password.expose(), "");
    assert!(from_variable("corp:3128").unwrap().credentials.is_none());
}

#[test]
fn what_is_no_proxy_is_refused_without_its_secrets() {
    for (value, expected) in [
        (
            "http://robot:secret@",
            "HTTPS_PROXY is not the URL of a proxy",
        ),
        ("ftp://robot:secret@corp", "HTTPS_PROXY: a proxy is http://"),
        (
            "socks4://robot:secret@corp",
            "HTTPS_PROXY: a proxy is http://",
        ),
        ("http://ro%3Abot:secret@corp", "HTTPS_PROXY: the username"),
    ] {
        let error = Proxies::new(&environment("", value, "", ""), None).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    for (length, fits) in [(255, true), (256, false)] {
        let value = format!("socks5://robot:{}@corp", "s".repeat(length));
        let proxies = Proxies::new(&environment("", "", &value, ""), None);
        assert_eq!(proxies.is_ok(), fits, "{length}");
    }
    let error = Proxies::new(&through("ssh://corp"), None).unwrap_err();
    assert!(error.starts_with("a proxy is http://"), "{error}");
}
