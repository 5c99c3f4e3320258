use super::*;
use crate::oci::name::NameError;
use crate::oci::{Algorithm, Digest};
use crate::upstream::FetchError;

/// Status, code, and the text of a header of the reply.
fn told(refusal: impl Into<ApiError>, name: HeaderName) -> (u16, String, Option<String>) {
    let reply = refusal.into().into_reply();
    let Content::Full(body) = &reply.content else {
        panic!("an error without a body");
    };
    assert_eq!(reply.headers[header::CONTENT_TYPE], "application/json");
    let expected = match reply.status.as_u16() {
        404 => Outcome::NotFound,
        403 => Outcome::Denied,
        429 => Outcome::Limited,
        400..=499 => Outcome::Rejected,
        _ => Outcome::Error,
    };
    assert_eq!(reply.outcome, expected);
    let envelope: serde_json::Value = serde_json::from_slice(body).unwrap();
    let code = envelope["errors"][0]["code"].as_str().unwrap().to_owned();
    let value = reply.headers.get(name);
    let value = value.map(|value| value.to_str().unwrap().to_owned());
    (reply.status.as_u16(), code, value)
}

#[test]
fn the_mirrors_errors() {
    let retry = |seconds: f64| MirrorError::RateLimited {
        retry_after: Some(Duration::from_secs_f64(seconds)),
    };
    let wrong = MirrorError::WrongContent {
        digest: Digest::of(Algorithm::Sha256, b""),
        why: String::new(),
    };
    let invalid = MirrorError::ManifestInvalid("too large".to_owned());
    let unsaid = MirrorError::RateLimited { retry_after: None };
    let store = MirrorError::Store("disk full at /secret/path".to_owned());
    let cases = [
        (MirrorError::ManifestUnknown, 404, "MANIFEST_UNKNOWN", None),
        (MirrorError::NameUnknown, 404, "NAME_UNKNOWN", None),
        (MirrorError::BlobUnknown, 404, "BLOB_UNKNOWN", None),
        (MirrorError::Unauthorized, 403, "DENIED", None),
        (MirrorError::Denied, 403, "DENIED", None),
        (unsaid, 429, "TOOMANYREQUESTS", Some("10")),
        (retry(0.5), 429, "TOOMANYREQUESTS", Some("1")),
        (retry(7.2), 429, "TOOMANYREQUESTS", Some("8")),
        (wrong, 502, "UNKNOWN", None),
        (invalid, 502, "MANIFEST_INVALID", None),
        (MirrorError::Busy("fills"), 503, "UNAVAILABLE", Some("2")),
        (
            MirrorError::Limited(Limit::Questions),
            429,
            "TOOMANYREQUESTS",
            Some("2"),
        ),
        (MirrorError::ShuttingDown, 503, "UNAVAILABLE", Some("2")),
        (store, 500, "UNKNOWN", None),
    ];
    for (error, status, code, retry_after) in cases {
        let name = error.to_string();
        let told = told(error, header::RETRY_AFTER);
        let expected = (status, code.to_owned(), retry_after.map(str::to_owned));
        assert_eq!(told, expected, "{name}");
    }
}

#[test]
fn cache_status_says_what_upstream_said() {
    let told = |error: MirrorError| {
        let reply = ApiError::from(error).into_reply();
        let value = reply.headers[reply::CACHE_STATUS].to_str().unwrap();
        (reply.status.as_u16(), value.to_owned())
    };
    let remembered = MirrorError::Remembered(Box::new(MirrorError::BlobUnknown));
    let status = |status| MirrorError::Upstream(FetchError::Status(status));
    let broken = MirrorError::Upstream(FetchError::Broken("x".to_owned()));
    for (error, expected) in [
        (
            MirrorError::ManifestUnknown,
            (404, "fwd=miss; fwd-status=404"),
        ),
        (MirrorError::Unauthorized, (403, "fwd=miss; fwd-status=401")),
        (status(500), (502, "fwd=miss; fwd-status=500")),
        (broken, (502, "fwd=miss")),
        (remembered, (404, "hit; detail=negative")),
    ] {
        let (status, value) = expected;
        assert_eq!(told(error), (status, format!("roadstead; {value}")));
    }
    let range = ApiError::range(Some(5), Outcome::Hit).into_reply();
    assert_eq!(range.headers[reply::CACHE_STATUS], "roadstead; hit");
    assert_eq!(range.outcome, Outcome::Rejected);
}

#[test]
fn a_failure_names_the_upstream_and_the_reason() {
    let told = |error: MirrorError| {
        let upstream = UpstreamName::parse("ghcr.io").unwrap();
        let reply = ApiError::from(error).about(Some(&upstream)).into_reply();
        let Content::Full(body) = &reply.content else {
            panic!("an error without a body");
        };
        let envelope: serde_json::Value = serde_json::from_slice(body).unwrap();
        envelope["errors"][0]["message"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let refused = FetchError::Connect("10.0.0.9:443: Connection refused (os error 111)".to_owned());
    assert_eq!(
        told(MirrorError::Upstream(refused)),
        "ghcr.io: upstream cannot be reached, or failed: connection refused"
    );
    assert_eq!(
        told(MirrorError::Timeout(FetchError::Timeout("an endpoint"))),
        "ghcr.io: upstream did not answer in time: timed out waiting for an endpoint"
    );
    assert_eq!(
        told(MirrorError::Busy("too many blobs are being fetched")),
        "this mirror is too busy: too many blobs are being fetched"
    );
    assert_eq!(told(MirrorError::Store("x".to_owned())), phrase::STORE);
}

#[test]
fn causes_stay_inside() {
    let error = MirrorError::Store("disk full at /secret/path".to_owned());
    let Content::Full(body) = ApiError::from(error).into_reply().content else {
        panic!("an error without a body");
    };
    assert!(!String::from_utf8_lossy(&body).contains("secret"));
}

#[test]
fn requests_that_lead_nowhere() {
    let unknown = ResolveError::Unknown {
        name: "evil.example".to_owned(),
        known: "docker.io, ghcr.io".to_owned(),
    };
    let Content::Full(body) = ApiError::from(unknown.clone()).into_reply().content else {
        panic!("an error without a body");
    };
    assert!(String::from_utf8_lossy(&body).contains("docker.io, ghcr.io"));

    let cases: [(ApiError, u16, &str, Option<&str>); 6] = [
        (unknown.into(), 404, "NAME_UNKNOWN", None),
        (ResolveError::Repository.into(), 400, "NAME_INVALID", None),
        (RouteError::NotFound.into(), 404, "UNSUPPORTED", None),
        (ApiError::read_only(), 405, "UNSUPPORTED", Some("GET, HEAD")),
        (
            RouteError::Name(NameError::Tag).into(),
            400,
            "TAG_INVALID",
            None,
        ),
        (
            RouteError::Page.into(),
            400,
            "PAGINATION_NUMBER_INVALID",
            None,
        ),
    ];
    for (refusal, status, code, allow) in cases {
        let (status_told, code_told, allow_told) = told(refusal, header::ALLOW);
        assert_eq!(status_told, status, "{code}");
        assert_eq!(allow_told.as_deref(), allow, "{code}");
        if status != 404 {
            assert_eq!(code_told, code);
        }
    }
}

#[test]
fn a_body_that_fails_before_its_head_has_a_status() {
    let mirror = BodyError::from(MirrorError::BlobUnknown);
    assert_eq!(told(mirror, header::ALLOW).0, 404);
    let short = BodyError::Short { missing: 1 };
    assert_eq!(told(short, header::ALLOW).0, 502);
}
