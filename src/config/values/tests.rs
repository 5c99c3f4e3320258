use toml::de::DeTable;

use super::*;

fn written(text: &str) -> DeValue<'static> {
    DeValue::String(text.to_owned().into())
}

/// The text behind `key =`.
fn toml(value: &str) -> DeValue<'static> {
    let text = format!("key = {value}").leak();
    let table = DeTable::parse(text).unwrap().into_inner();
    let (_, value) = table.into_iter().next().unwrap();
    value.into_inner()
}

#[test]
fn sizes_in_every_form() {
    for (text, bytes) in [
        ("100GB", 100_000_000_000),
        ("100 GB", 100_000_000_000),
        ("64MiB", 64 << 20),
        ("1.5GiB", 3 << 29),
        ("50g", 50_000_000_000),
        ("4096", 4096),
        ("1B", 1),
        (" 2KiB ", 2048),
    ] {
        assert_eq!(size(&written(text)), Ok(bytes), "{text}");
    }
    assert_eq!(size(&toml("4096")), Ok(4096));
}

#[test]
fn sizes_that_are_nonsense() {
    for text in [
        "",
        "GB",
        "-1GB",
        "1.5",
        "1e9",
        "ten",
        "10 bananas",
        "1GB2",
        "0",
        "0GB",
        "0.1B",
        "20EB",
        "99999999999999999999",
        "1..5GB",
        "١GB",
    ] {
        assert!(size(&written(text)).is_err(), "{text}");
    }
    for value in [toml("-1"), toml("0"), toml("true"), toml("1.5")] {
        assert!(size(&value).is_err());
    }
}

#[test]
fn parts_of_the_file_system() {
    for (text, percent) in [("80%", 80), ("1%", 1), ("100%", 100), (" 7 % ", 7)] {
        assert_eq!(
            max_size(&written(text)),
            Ok(Amount::Percent(percent)),
            "{text}"
        );
    }
    for text in [
        "0%", "101%", "-1%", "+5%", "1.5%", "%", "x%", "80%%", "80% GB", "300%",
    ] {
        assert!(max_size(&written(text)).is_err(), "{text}");
    }
    assert_eq!(max_size(&written("4MiB")), Ok(Amount::Bytes(4 << 20)));
    assert_eq!(min_free(&written("0%")), Ok(Amount::Percent(0)));
    assert_eq!(min_free(&written("10%")), Ok(Amount::Percent(10)));
    for nothing in [toml("0"), written("0"), written("0GB")] {
        assert_eq!(min_free(&nothing), Ok(Amount::Bytes(0)));
        assert!(max_size(&nothing).is_err());
    }
    let why = min_free(&written("100%")).unwrap_err();
    assert!(why.contains("from 0% to 99%"), "{why}");
}

#[test]
fn durations_in_every_form() {
    for (text, seconds) in [
        ("30s", 30),
        ("5m", 300),
        ("7d", 604_800),
        ("1h 30m", 5400),
        ("1h30m", 5400),
        ("0s", 0),
    ] {
        assert_eq!(
            duration(&written(text)),
            Ok(Duration::from_secs(seconds)),
            "{text}"
        );
    }
    assert_eq!(duration(&written("250ms")), Ok(Duration::from_millis(250)));
    assert_eq!(duration(&toml("0")), Ok(Duration::ZERO));
}

#[test]
fn a_scrub_has_a_time_or_is_off() {
    assert_eq!(Scrub::parse(&written("off")), Ok(None));
    let month = Duration::from_hours(30 * 24);
    assert_eq!(Scrub::parse(&written("30d")), Ok(Some(month)));
    for (text, words) in [
        ("30m", "at least 1h"),
        ("0s", "\"off\""),
        ("never", "or \"off\""),
    ] {
        let why = Scrub::parse(&written(text)).unwrap_err();
        assert!(why.contains(words), "{text}: {why}");
    }
}

#[test]
fn durations_that_are_nonsense() {
    for text in [
        "",
        "30",
        "-5s",
        "s",
        "five minutes",
        "5 parsecs",
        "1000years",
        "99999999999999999999s",
    ] {
        assert!(duration(&written(text)).is_err(), "{text}");
    }
    assert_eq!(
        duration(&toml("30")),
        Err("30 has no unit; write \"30s\"".to_owned())
    );
    assert!(time_limit(&written("0s")).is_err());
}

#[test]
fn the_header_limit_stays_under_containerds() {
    assert_eq!(header_timeout(&written("25s")), Ok(Duration::from_secs(25)));
    let why = header_timeout(&written("25001ms")).unwrap_err();
    assert!(why.contains("containerd"), "{why}");
}

#[test]
fn addresses_in_every_form() {
    for (text, address_) in [
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("[::1]:5000", "[::1]:5000"),
        ("localhost:5000", "127.0.0.1:5000"),
        (":5000", "0.0.0.0:5000"),
        ("0.0.0.0:0", "0.0.0.0:0"),
    ] {
        assert_eq!(address(&written(text)).unwrap().to_string(), address_);
    }
    for text in [
        "",
        "5000",
        "127.0.0.1",
        "example.org:5000",
        ":65536",
        ":+5",
        ":",
        "::1:5000",
    ] {
        assert!(address(&written(text)).is_err(), "{text}");
    }
}

#[test]
fn endpoint_urls() {
    for text in [
        "https://ghcr.io",
        "http://127.0.0.1:5001/prefix/",
        "HTTPS://[::1]:5000",
    ] {
        assert!(EndpointUrl::parse(&written(text)).is_ok(), "{text}");
    }
    for text in [
        "",
        "ghcr.io",
        "ftp://x",
        "https://",
        "http://x?y",
        "http://x#y",
        "http:x",
        "http://x:99999",
    ] {
        assert!(EndpointUrl::parse(&written(text)).is_err(), "{text}");
    }
}

#[test]
fn a_password_in_a_url_is_refused_and_not_repeated() {
    for text in [
        "https://me:hunter2@ghcr.io",
        "htps://me:hunter2@ghcr.io",
        "https://me:hunter2@gh cr.io",
    ] {
        let why = EndpointUrl::parse(&written(text)).unwrap_err();
        assert!(!why.contains("hunter2"), "{why}");
    }
}

#[test]
fn connections() {
    assert_eq!(UpTo::<64>::parse(&toml("64")), Ok(64));
    assert_eq!(UpTo::<64>::parse(&written("8")), Ok(8));
    for value in [toml("0"), toml("65"), toml("-1"), written("x"), toml("1.5")] {
        assert!(UpTo::<64>::parse(&value).is_err());
    }
}

#[test]
fn a_cache_in_which_nothing_fits_is_a_forgotten_unit() {
    assert_eq!(max_size(&toml("1000000")), Ok(Amount::Bytes(1_000_000)));
    for few in [toml("10"), written("10"), written("10KB"), toml("999999")] {
        let why = max_size(&few).unwrap_err();
        assert!(why.contains("at least 1MB"), "{why}");
        assert_eq!(CacheShare::parse(&few), Err(why));
    }
    for few in [toml("10"), written("10")] {
        assert!(max_size(&few).unwrap_err().contains("write a unit"));
        assert!(min_free(&few).unwrap_err().contains("has no unit"));
    }
    assert_eq!(min_free(&toml("0")), Ok(Amount::Bytes(0)));
}

#[test]
fn what_a_kind_takes_matches_its_schema() {
    fn matches<K: Scalar>(text: &str) {
        let pattern = K::schema()["pattern"].as_str().unwrap().to_owned();
        let pattern = regex::Regex::new(&pattern).unwrap();
        let value = written(text);
        assert_eq!(K::parse(&value).is_ok(), pattern.is_match(text), "{text}");
    }
    for text in [
        "100GB", "100 GB", "64MiB", "1.5GiB", "50g", "50gi", "4096", "1B", " 2KiB ", "GB", "-1GB",
        "ten", "1GB2",
    ] {
        matches::<Size>(text);
    }
    for text in ["80%", " 7 % ", "50GB", "%", "80%%"] {
        matches::<MaxSize>(text);
    }
    for text in [
        "30s",
        "7d",
        "1h 30m",
        "1h30m",
        "250ms",
        "0",
        "2 weeks",
        "",
        "30",
        "s",
        "5 parsecs",
        "-5s",
    ] {
        matches::<Time>(text);
    }
    for text in ["off", "30d", "never"] {
        matches::<Scrub>(text);
    }
    for text in [
        "127.0.0.1:5000",
        "[::1]:5000",
        "localhost:1",
        ":1",
        "5000",
        "example.org:5000",
        ":",
    ] {
        matches::<Address>(text);
    }
    for text in [
        "https://ghcr.io",
        "HTTP://[::1]:5000/p/",
        "ghcr.io",
        "ftp://x",
        "http://x?y",
    ] {
        matches::<EndpointUrl>(text);
    }
    for text in ["always", "over 25%", "over 100%", "sometimes"] {
        matches::<FillOnRanges>(text);
    }
}
