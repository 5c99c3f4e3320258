use super::*;
use crate::oci::Tag;
use crate::oci::digest::DigestError;
use proptest::prelude::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn get(path: &str) -> Result<Target, RouteError> {
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    Target::parse(path, query)
}

fn route(path: &str) -> Route {
    get(path).unwrap().route
}

fn digest() -> Digest {
    Digest::parse(&format!("sha256:{HEX}")).unwrap()
}

fn tagged(path: &str, tag: &str) -> Route {
    Route::Manifest {
        path: path.to_owned(),
        reference: Reference::Tag(Tag::parse(tag).unwrap()),
    }
}

fn blob(path: &str) -> Route {
    Route::Blob {
        path: path.to_owned(),
        digest: digest(),
    }
}

#[test]
fn every_endpoint_has_its_route() {
    assert_eq!(route("/v2"), Route::Ping);
    assert_eq!(route("/v2/"), Route::Ping);
    assert_eq!(route("/v2/_catalog"), Route::Catalog(Page::default()));
    assert_eq!(route("/v2/a/manifests/latest"), tagged("a", "latest"));
    assert_eq!(
        route("/v2/ghcr.io/org/app/manifests/v1"),
        tagged("ghcr.io/org/app", "v1")
    );
    assert_eq!(
        route(&format!("/v2/a/b/manifests/sha256:{HEX}")),
        Route::Manifest {
            path: "a/b".to_owned(),
            reference: Reference::Digest(digest()),
        }
    );
    assert_eq!(route(&format!("/v2/a/b/blobs/sha256:{HEX}")), blob("a/b"));
    assert_eq!(
        route("/v2/a/tags/list"),
        Route::Tags {
            path: "a".to_owned(),
            page: Page::default(),
        }
    );
    assert_eq!(
        route(&format!(
            "/v2/a/referrers/sha256:{HEX}?artifactType=application%2Fx%2Bjson"
        )),
        Route::Referrers {
            path: "a".to_owned(),
            digest: digest(),
            artifact_type: Some("application/x+json".to_owned()),
            cursor: Vec::new(),
        }
    );
    let paged = format!(
        "/v2/a/referrers/{}?n=5&ns=b&next=x%2By&artifactType=t",
        digest()
    );
    assert_eq!(
        route(&paged),
        Route::Referrers {
            path: "a".to_owned(),
            digest: digest(),
            artifact_type: Some("t".to_owned()),
            cursor: vec![
                ("n".to_owned(), "5".to_owned()),
                ("next".to_owned(), "x+y".to_owned()),
            ],
        }
    );
}

#[test]
fn only_the_end_of_a_path_counts() {
    assert_eq!(
        route("/v2/a/manifests/b/manifests/latest"),
        tagged("a/manifests/b", "latest")
    );
    assert_eq!(
        route("/v2/a/blobs/uploads/manifests/latest"),
        tagged("a/blobs/uploads", "latest")
    );
    assert_eq!(route("/v2/a/tags/manifests/list"), tagged("a/tags", "list"));
    assert_eq!(
        route("/v2/manifests/manifests/manifests"),
        tagged("manifests", "manifests")
    );
    assert_eq!(
        route("/v2/a/blobs/tags/list"),
        Route::Tags {
            path: "a/blobs".to_owned(),
            page: Page::default(),
        }
    );
}

#[test]
fn paths_are_percent_decoded() {
    assert_eq!(route(&format!("/v2/a/blobs/sha256%3A{HEX}")), blob("a"));
    assert_eq!(
        route(&format!("/v2/a%2Fb/blobs/sha256%3a{HEX}")),
        blob("a/b")
    );
    assert_eq!(
        route("/v2/localhost%3A5000/a/manifests/1"),
        tagged("localhost:5000/a", "1")
    );
    assert_eq!(get("/v2/%ff/manifests/1"), Err(RouteError::NotFound));
}

#[test]
fn what_is_no_endpoint_is_not_found() {
    for path in [
        "",
        "/",
        "/v1/",
        "/v2x",
        "/v2x/a/manifests/b",
        "/v2/a",
        "/v2/a/",
        "/v2/a/b/c",
        "/v2/manifests/latest",
        "/v2//manifests/latest",
        "/v2/tags/list",
        "/v2/a/tags/other",
        "/v2/a/tags/list/",
        "/v2/_catalog/",
        "/v2/a/_catalog",
        "/healthz",
    ] {
        assert_eq!(get(path), Err(RouteError::NotFound), "{path}");
    }
}

#[test]
fn all_but_get_and_head_write() {
    for method in [
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
    ] {
        assert_eq!(Action::of(&method), Action::Write, "{method}");
    }
    assert_eq!(Action::of(&Method::GET), Action::Read);
    assert_eq!(Action::of(&Method::HEAD), Action::Describe);
}

#[test]
fn uploads_have_a_repository() {
    for (path, name, session) in [
        ("/v2/a/blobs/uploads", "a", ""),
        ("/v2/a/blobs/uploads/", "a", ""),
        ("/v2/a/b/blobs/uploads/0b4bf2f1", "a/b", "0b4bf2f1"),
    ] {
        let upload = Route::Upload {
            path: name.to_owned(),
            session: session.to_owned(),
        };
        assert_eq!(get(path).unwrap().route, upload, "{path}");
    }
    // Without a repository it is nothing at all.
    assert_eq!(get("/v2/blobs/uploads/x"), Err(RouteError::NotFound));
}

#[test]
fn bad_references_say_what_is_wrong() {
    for (path, code) in [
        ("/v2/a/manifests/", ErrorCode::TagInvalid),
        ("/v2/a/manifests/-x", ErrorCode::TagInvalid),
        ("/v2/a/manifests/sha256:00", ErrorCode::DigestInvalid),
        ("/v2/a/blobs/latest", ErrorCode::DigestInvalid),
        ("/v2/a/blobs/blake3:00", ErrorCode::DigestInvalid),
        ("/v2/a/referrers/x", ErrorCode::DigestInvalid),
        ("/v2/a/tags/list?n=abc", ErrorCode::PaginationNumberInvalid),
        ("/v2/nothing", ErrorCode::NameUnknown),
    ] {
        assert_eq!(get(path).unwrap_err().code(), code, "{path}");
    }
    assert_eq!(
        RouteError::from(NameError::Repository).code(),
        ErrorCode::NameInvalid
    );
    assert_eq!(
        get("/v2/a/blobs/md5:00"),
        Err(RouteError::Name(NameError::Digest(
            DigestError::Unsupported("md5".to_owned())
        )))
    );
}

#[test]
fn pages_are_read() {
    let page = |query: &str| match get(&format!("/v2/a/tags/list?{query}")) {
        Ok(Target {
            route: Route::Tags { page, .. },
            ..
        }) => Ok(page),
        Ok(other) => panic!("{other:?} is no list of tags"),
        Err(error) => Err(error),
    };
    let of = |limit, last: Option<&str>| {
        Ok(Page {
            limit,
            last: last.map(str::to_owned),
            cursor: Vec::new(),
        })
    };
    assert_eq!(page(""), of(None, None));
    assert_eq!(page("n="), of(None, None));
    assert_eq!(page("n=0"), of(Some(0), None));
    assert_eq!(page("n=10&last=v1%2B2"), of(Some(10), Some("v1+2")));
    assert_eq!(page("n=1&n=2"), of(Some(1), None));
    assert_eq!(page("last=a&ns=quay.io"), of(None, Some("a")));
    for bad in [
        "n=abc",
        "n=-1",
        "n=%2B1",
        "n=1.5",
        "n=+1",
        "n=99999999999999999999999",
    ] {
        assert_eq!(page(bad), Err(RouteError::Page), "{bad}");
    }
}

#[test]
fn an_upstreams_own_cursor_is_kept_within_bounds() {
    let cursor = |query: &str| {
        let Route::Tags { page, .. } = route(&format!("/v2/a/tags/list?{query}")) else {
            panic!("{query:?} made it no list of tags")
        };
        page.cursor
    };
    assert_eq!(
        cursor("n=5&next_page=gAAA%3D&ns=quay.io"),
        [("next_page".to_owned(), "gAAA=".to_owned())]
    );
    assert_eq!(cursor(&"a=1&".repeat(50)).len(), CURSORS_MAX);
    assert_eq!(cursor(&format!("a={}", "x".repeat(CURSOR_BYTES_MAX))), []);
}

#[test]
fn ns_is_given_as_written() {
    let ns = |query| Target::parse("/v2/a/manifests/b", query).unwrap().ns;
    assert_eq!(ns(Some("ns=Docker.IO")).as_deref(), Some("Docker.IO"));
    assert_eq!(
        ns(Some("x=1&ns=localhost%3A5000")).as_deref(),
        Some("localhost:5000")
    );
    assert_eq!(ns(Some("ns=")), None);
    assert_eq!(ns(None), None);
}

fn any_digest() -> impl Strategy<Value = Digest> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(Digest::Sha256),
        (any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(|(a, b)| {
            Digest::from_bytes(crate::oci::Algorithm::Sha512, &[a, b].concat()).unwrap()
        }),
    ]
}

/// Paths are not checked yet, so anything may stand there; a first slash or nothing at all cannot.
fn any_path() -> impl Strategy<Value = String> {
    prop_oneof![
        "(ghcr\\.io/|localhost:5000/)?[a-z0-9]{1,5}(/(manifests|blobs|tags|list|uploads|[a-z-]{1,5})){0,4}",
        "[^/]\\PC{0,20}",
    ]
}

fn any_page() -> impl Strategy<Value = Page> {
    (
        any::<Option<usize>>(),
        prop::option::of("\\PC{1,10}"),
        prop::collection::vec(("[a-m]{2,9}", ".{0,20}"), 0..=CURSORS_MAX),
    )
        .prop_map(|(limit, last, cursor)| Page {
            limit,
            last,
            cursor,
        })
}

fn any_route() -> impl Strategy<Value = Route> {
    let tag = "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}"
        .prop_map(|tag| Reference::Tag(Tag::parse(&tag).unwrap()));
    let reference = prop_oneof![tag, any_digest().prop_map(Reference::Digest)];
    prop_oneof![
        Just(Route::Ping),
        any_page().prop_map(Route::Catalog),
        (any_path(), reference).prop_map(|(path, reference)| Route::Manifest { path, reference }),
        (any_path(), any_digest()).prop_map(|(path, digest)| Route::Blob { path, digest }),
        (any_path(), any_page()).prop_map(|(path, page)| Route::Tags { path, page }),
        (
            any_path(),
            any_digest(),
            prop::option::of("\\PC{1,20}"),
            any_page()
        )
            .prop_map(|(path, digest, artifact_type, page)| Route::Referrers {
                path,
                digest,
                artifact_type,
                cursor: page.cursor,
            }),
    ]
}

proptest! {
    #[test]
    fn parse_reads_what_is_printed(route in any_route(), ns in prop::option::of("\\PC{1,20}")) {
        let target = Target { route, ns };
        let printed = target.to_string();
        prop_assert!(printed.is_ascii());
        prop_assert_eq!(get(&printed), Ok(target), "{}", printed);
    }

    #[test]
    fn no_request_target_makes_the_parser_panic(path in "/v2/\\PC{0,60}", query in prop::option::of(".{0,60}")) {
        if let Ok(target) = Target::parse(&path, query.as_deref()) {
            prop_assert_eq!(get(&target.to_string()), Ok(target));
        }
    }
}
