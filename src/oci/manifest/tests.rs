use super::*;
use crate::oci::Algorithm;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

fn digest(content: &str) -> Digest {
    Digest::of(Algorithm::Sha256, content.as_bytes())
}

fn descriptor(media_type: &str, content: &str) -> Value {
    json!({
        "mediaType": media_type,
        "digest": digest(content).to_string(),
        "size": content.len(),
    })
}

fn child(kind: ChildKind, media_type: &str, content: &str) -> Child {
    Child {
        kind,
        digest: digest(content),
        size: Some(content.len() as u64),
        media_type: Some(media_type.to_owned()),
        foreign: false,
    }
}

fn read(content_type: Option<&str>, document: &Value) -> Result<Inspection, ManifestError> {
    inspect(content_type, document.to_string().as_bytes())
}

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn image() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "config": descriptor(CONFIG, "config"),
        "layers": [descriptor(LAYER, "one"), descriptor(LAYER, "two"), descriptor(LAYER, "one")],
        "subject": descriptor(media::OCI_MANIFEST, "subject"),
        "annotations": {"a": "b"},
    })
}

fn image_children() -> Vec<Child> {
    vec![
        child(ChildKind::Blob, CONFIG, "config"),
        child(ChildKind::Blob, LAYER, "one"),
        child(ChildKind::Blob, LAYER, "two"),
    ]
}

fn index() -> Value {
    json!({
        "schemaVersion": 2,
        "manifests": [
            descriptor(media::OCI_MANIFEST, "amd64"),
            descriptor(media::DOCKER_LIST, "nested"),
            descriptor("application/vnd.example+json", "example"),
            descriptor(LAYER, "layer of a build cache"),
            descriptor("application/vnd.buildkit.cacheconfig.v0", "its config"),
        ],
    })
}

#[test]
fn an_image_names_its_config_and_layers_once_and_not_its_subject() {
    for content_type in [media::OCI_MANIFEST, media::DOCKER_MANIFEST] {
        let mut document = image();
        document["mediaType"] = json!(content_type);
        let inspection = read(Some(content_type), &document).unwrap();
        assert_eq!(inspection.media_type, content_type);
        assert_eq!(inspection.children, image_children());
        assert_eq!(inspection.schema1_payload, None);
    }
}

#[test]
fn an_index_names_manifests_and_the_blobs_of_a_build_cache() {
    for content_type in [media::OCI_INDEX, media::DOCKER_LIST] {
        let kinds: Vec<_> = read(Some(content_type), &index())
            .unwrap()
            .children
            .into_iter()
            .map(|child| (child.kind, child.digest))
            .collect();
        assert_eq!(
            kinds,
            [
                (ChildKind::Manifest, digest("amd64")),
                (ChildKind::Manifest, digest("nested")),
                (ChildKind::Manifest, digest("example")),
                (ChildKind::Blob, digest("layer of a build cache")),
                (ChildKind::Blob, digest("its config")),
            ]
        );
    }
}

#[test]
fn an_artifact_names_its_blobs() {
    let document = json!({
        "mediaType": media::OCI_ARTIFACT,
        "artifactType": "application/x",
        "blobs": [descriptor("text/plain", "notes")],
    });
    let inspection = read(None, &document).unwrap();
    assert_eq!(inspection.media_type, media::OCI_ARTIFACT);
    assert_eq!(
        inspection.children,
        [child(ChildKind::Blob, "text/plain", "notes")]
    );
}

#[test]
fn foreign_layers_are_marked() {
    let mut document = image();
    document["layers"][0]["urls"] = json!(["https://elsewhere.example/layer"]);
    document["layers"][1]["urls"] = json!([]);
    let children = read(Some(media::OCI_MANIFEST), &document).unwrap().children;
    let foreign: Vec<bool> = children.iter().map(|child| child.foreign).collect();
    assert_eq!(foreign, [false, true, false]);
}

/// Media types are kept under the digest and serve every repository: what one upstream's header says must
/// not change what another's clients read.
#[test]
fn the_bytes_say_what_they_are_whatever_the_header_says() {
    let untyped = |mut document: Value| {
        document.as_object_mut().unwrap().remove("mediaType");
        document
    };
    let mut docker_image = untyped(image());
    docker_image["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    let mut docker_list = untyped(index());
    docker_list["manifests"] = json!([descriptor(media::DOCKER_MANIFEST, "amd64")]);
    let config_alone = json!({"schemaVersion": 2, "config": descriptor(CONFIG, "config")});
    let mut odd = untyped(image());
    odd["mediaType"] = json!(7);
    let own = |media_type: &str| {
        let mut document = image();
        document["mediaType"] = json!(media_type);
        document
    };
    let vendors = "application/vnd.cncf.oras.artifact.manifest.v1+json";
    for (document, expected) in [
        (untyped(image()), media::OCI_MANIFEST),
        (docker_image, media::DOCKER_MANIFEST),
        (untyped(index()), media::OCI_INDEX),
        (docker_list, media::DOCKER_LIST),
        (json!({"manifests": []}), media::OCI_INDEX),
        (config_alone, media::OCI_MANIFEST),
        (odd, media::OCI_MANIFEST),
        (own(media::DOCKER_MANIFEST), media::DOCKER_MANIFEST),
        (own(vendors), vendors),
        // What is no type, or one that a browser would show, says nothing.
        (own(""), media::OCI_MANIFEST),
        (own("text/html"), media::OCI_MANIFEST),
        (own("application/xhtml+xml"), media::OCI_MANIFEST),
        (own("application/vnd.x+xml"), media::OCI_MANIFEST),
        (own("application/json"), media::OCI_MANIFEST),
    ] {
        for content_type in [
            None,
            Some(media::OCI_MANIFEST),
            Some(media::OCI_INDEX),
            Some(media::DOCKER_MANIFEST),
            Some(media::DOCKER_LIST),
            Some(media::DOCKER_SCHEMA1),
            Some("application/vnd.example+json"),
            Some("text/html"),
        ] {
            let inspection = read(content_type, &document).unwrap();
            assert_eq!(
                inspection.media_type, expected,
                "{content_type:?} {document}"
            );
            assert!(!inspection.by_header);
        }
    }
}

#[test]
fn where_the_bytes_say_nothing_the_header_does() {
    for (content_type, expected) in [
        (
            " Application/vnd.oci.image.Manifest.v1+json ;x=y",
            Some("Application/vnd.oci.image.Manifest.v1+json"),
        ),
        (
            "application/vnd.example+json",
            Some("application/vnd.example+json"),
        ),
        ("application/example+json", Some("application/example+json")),
        ("application/x-example", None),
        ("image/svg+xml", None),
        ("application/vnd.example+xml", None),
        ("application/problem+json", None),
        ("application/vnd. x", None),
        ("application/vnd.x/y", None),
    ] {
        let inspection = read(Some(content_type), &json!({"a": 1}));
        let said = inspection.ok().map(|inspection| {
            assert!(inspection.by_header);
            inspection.media_type
        });
        assert_eq!(said.as_deref(), expected, "{content_type}");
    }
}

/// CVE-2021-41190: one client reads an index, another an image.
#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let (layer, entry) = (
        descriptor(LAYER, "one"),
        descriptor(media::OCI_MANIFEST, "x"),
    );
    let config = descriptor(CONFIG, "config");
    for document in [
        format!(r#"{{"manifests":[{entry}],"layers":[{layer}]}}"#),
        format!(r#"{{"manifests":[{entry}],"config":{config}}}"#),
        format!(
            r#"{{"mediaType":"{}","manifests":[{entry}],"layers":[{layer}]}}"#,
            media::OCI_INDEX
        ),
        format!(
            r#"{{"mediaType":"{}","manifests":[{entry}],"config":{config}}}"#,
            media::OCI_MANIFEST
        ),
        format!(r#"{{"schemaVersion":1,"fsLayers":[{layer}],"layers":[{layer}]}}"#),
        format!(r#"{{"MANIFESTS":[{entry}],"layers":[{layer}]}}"#),
        format!(r#"{{"manife\u017fts":[{entry}],"layers":[{layer}]}}"#),
        r#"{"manifests":[1],"layers":[2]}"#.to_owned(),
        format!(
            r#"{{"mediaType":"{}","mediaType":"{}","layers":[{layer}]}}"#,
            media::OCI_INDEX,
            media::OCI_MANIFEST
        ),
        format!(
            r#"{{"mediaType":"application/vnd.x","MediaType":"{}","layers":[{layer}]}}"#,
            media::OCI_MANIFEST
        ),
    ] {
        for content_type in [None, Some(media::OCI_INDEX), Some(media::OCI_MANIFEST)] {
            assert_eq!(
                inspect(content_type, document.as_bytes()),
                Err(ManifestError::Ambiguous),
                "{document}"
            );
        }
    }
    for document in [
        format!(r#"{{"manifests":[{entry}],"layers":[]}}"#),
        format!(r#"{{"manifests":[{entry}],"layers":null,"config":{{}}}}"#),
        format!(r#"{{"manifests":[],"config":{config},"layers":[{layer}]}}"#),
        format!(
            r#"{{"mediaType":"{0}","mediaType":"{0}","layers":[{layer}]}}"#,
            media::OCI_MANIFEST
        ),
    ] {
        assert!(inspect(None, document.as_bytes()).is_ok(), "{document}");
    }
}

#[test]
fn a_generic_content_type_yields_to_the_body() {
    let mut untyped = image();
    untyped.as_object_mut().unwrap().remove("mediaType");
    let mut docker = image();
    docker["mediaType"] = json!(media::DOCKER_MANIFEST);
    for content_type in [
        None,
        Some(""),
        Some("application/json"),
        Some("Application/JSON; charset=utf-8"),
        Some("text/plain; charset=utf-8"),
        Some("text/html"),
        Some("application/octet-stream"),
    ] {
        for (document, expected) in [
            (&docker, media::DOCKER_MANIFEST),
            (&untyped, media::OCI_MANIFEST),
            (&index(), media::OCI_INDEX),
        ] {
            let inspection = read(content_type, document).unwrap();
            assert_eq!(inspection.media_type, expected, "{content_type:?}");
            assert!(!inspection.children.is_empty());
        }
    }
}

#[test]
fn what_is_no_manifest_is_refused() {
    let html = b"<!doctype html><title>Sign in</title>";
    for bytes in [
        &html[..],
        b"",
        b"[]",
        b"null",
        b"\"text\"",
        b"12",
        b"{",
        b"{} {}",
        b"\xff\xfe",
    ] {
        for content_type in [Some("text/html"), Some(media::OCI_MANIFEST), None] {
            assert_eq!(
                inspect(content_type, bytes),
                Err(ManifestError::NotJson),
                "{content_type:?} {}",
                String::from_utf8_lossy(bytes)
            );
        }
    }
    let envelope = json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]});
    for (content_type, document) in [
        (Some("application/json"), &envelope),
        (Some(media::OCI_MANIFEST), &envelope),
        (Some("application/json"), &json!({})),
        (None, &json!({"message": "hello", "config": {}})),
        (Some("text/html"), &json!({"mediaType": ""})),
        (Some("application/problem+json"), &json!({"title": "no"})),
        (
            None,
            &json!({"manifests": "none", "layers": 3, "config": []}),
        ),
        (None, &json!({"fsLayers": []})),
    ] {
        assert_eq!(
            read(content_type, document),
            Err(ManifestError::UnknownKind),
            "{content_type:?} {document}"
        );
    }
}

#[test]
fn an_unknown_vendors_document_is_passed_with_what_is_found() {
    let document = json!({
        "mediaType": "application/vnd.example+json",
        "config": descriptor(CONFIG, "config"),
        "manifests": [descriptor(media::OCI_MANIFEST, "inner")],
        "blobs": [descriptor(LAYER, "blob")],
    });
    let inspection = read(None, &document).unwrap();
    assert_eq!(
        inspection.children,
        [
            child(ChildKind::Manifest, media::OCI_MANIFEST, "inner"),
            child(ChildKind::Blob, CONFIG, "config"),
            child(ChildKind::Blob, LAYER, "blob"),
        ]
    );
    let inspection = read(Some("application/vnd.example+json"), &json!({})).unwrap();
    assert_eq!(inspection.children, []);
}

#[test]
fn members_of_an_unexpected_type_are_passed_over() {
    let document = json!({
        "mediaType": 7,
        "schemaVersion": "2",
        "config": "none",
        "layers": [
            1, null, "x", [], {}, true, -1, 1.5,
            {"digest": 5, "size": 1},
            {"digest": "blake3:00", "size": 1},
            {"digest": digest("odd").to_string(), "size": -1, "mediaType": [], "urls": "u"},
        ],
    });
    let inspection = read(Some(media::OCI_MANIFEST), &document).unwrap();
    assert_eq!(
        inspection.children,
        [Child {
            kind: ChildKind::Blob,
            digest: digest("odd"),
            size: None,
            media_type: None,
            foreign: false,
        }]
    );
}

#[test]
fn a_media_type_is_one_by_the_rfc_or_the_manifest_is_none() {
    // It is kept for each manifest and tag, and sent as a header: once, one of 4 MB was.
    let long = format!("application/{}", "x".repeat(4_000_000));
    let escapes = "application/\u{1b}]0;owned\u{7}";
    for (impossible, key) in [
        (long.as_str(), "mediaType"),
        (long.as_str(), "artifactType"),
        (escapes, "mediaType"),
        (escapes, "artifactType"),
        ("a/b\r\nset-cookie: c", "mediaType"),
        ("manifest", "mediaType"),
    ] {
        let mut document = image();
        document[key] = json!(impossible);
        for content_type in [Some(media::OCI_MANIFEST), None] {
            let result = read(content_type, &document);
            assert_eq!(result, Err(ManifestError::ImpossibleType), "{key}");
        }
    }
    let mut document = image();
    document["mediaType"] = json!(format!("{}; charset=utf-8", media::OCI_MANIFEST));
    let inspection = read(None, &document).unwrap();
    assert_eq!(inspection.media_type, media::OCI_MANIFEST);
    // In a descriptor it is a hint, of which nothing is kept that cannot be one.
    let mut document = image();
    document["layers"][0]["mediaType"] = json!(long);
    document["layers"][1]["mediaType"] = json!(escapes);
    let children = read(None, &document).unwrap().children;
    let types: Vec<_> = children.iter().map(|c| c.media_type.as_deref()).collect();
    assert_eq!(types, [Some(CONFIG), None, None]);
}

#[test]
fn deep_nesting_is_an_error_or_skipped_and_no_overflow() {
    let deep = "[".repeat(1_000_000);
    assert_eq!(inspect(None, deep.as_bytes()), Err(ManifestError::NotJson));
    let depth = 200_000;
    let skipped = format!(
        "{{\"x\":{}{},\"manifests\":[]}}",
        "[".repeat(depth),
        "]".repeat(depth)
    );
    // Whichever it is, the stack holds.
    assert_ne!(
        inspect(None, skipped.as_bytes()),
        Err(ManifestError::UnknownKind)
    );
}

/// A document of schema 1 and, with `sign`, its signature block as libtrust writes it.
fn schema1(sign: bool) -> (Vec<u8>, Digest) {
    let payload = format!(
        "{{\n   \"schemaVersion\": 1,\n   \"name\": \"a\",\n   \"fsLayers\": [\n      {{\"blobSum\": \"{}\"}},\n      {{\"blobSum\": \"{}\"}},\n      {{\"blobSum\": \"{}\"}}\n   ]\n}}",
        digest("one"),
        digest("two"),
        digest("one"),
    );
    let payload_digest = digest(&payload);
    if !sign {
        return (payload.into_bytes(), payload_digest);
    }
    let length = payload.len() - 2;
    let (head, tail) = payload.split_at(length);
    let protected = json!({
        "formatLength": length,
        "formatTail": URL_SAFE_NO_PAD.encode(tail),
        "time": "2016-01-01T00:00:00Z",
    });
    let signatures = json!([{
        "header": {"alg": "ES256"},
        "signature": "AA",
        "protected": URL_SAFE_NO_PAD.encode(protected.to_string()),
    }]);
    let signed = format!("{head},\n   \"signatures\": {signatures}\n}}");
    (signed.into_bytes(), payload_digest)
}

fn schema1_children() -> Vec<Child> {
    ["one", "two"]
        .map(|content| Child {
            kind: ChildKind::Blob,
            digest: digest(content),
            size: None,
            media_type: None,
            foreign: false,
        })
        .to_vec()
}

#[test]
fn a_signed_schema_1_manifest_is_known_by_its_payload() {
    let (bytes, payload) = schema1(true);
    for content_type in [
        Some(media::DOCKER_SCHEMA1_SIGNED),
        Some("application/json"),
        None,
    ] {
        let inspection = inspect(content_type, &bytes).unwrap();
        assert_eq!(inspection.media_type, media::DOCKER_SCHEMA1_SIGNED);
        assert_eq!(inspection.children, schema1_children());
        assert_eq!(inspection.schema1_payload, Some(payload));
    }
    assert_ne!(Digest::of(Algorithm::Sha256, &bytes), payload);
}

#[test]
fn an_unsigned_schema_1_manifest_has_no_other_digest() {
    let (bytes, _) = schema1(false);
    let inspection = inspect(None, &bytes).unwrap();
    assert_eq!(inspection.media_type, media::DOCKER_SCHEMA1_SIGNED);
    assert_eq!(inspection.children, schema1_children());
    assert_eq!(inspection.schema1_payload, None);
}

#[test]
fn a_broken_signature_has_no_payload() {
    for protected in [
        json!({"formatLength": 1_000_000, "formatTail": "fQ"}),
        json!({"formatLength": -1, "formatTail": "fQ"}),
        json!({"formatLength": 1, "formatTail": "*"}),
        json!({"formatLength": 1}),
    ] {
        let document = json!({
            "schemaVersion": 1,
            "fsLayers": [],
            "signatures": [{"protected": URL_SAFE_NO_PAD.encode(protected.to_string())}],
        });
        let inspection = read(None, &document).unwrap();
        assert_eq!(inspection.schema1_payload, None, "{protected}");
    }
    for signatures in [
        json!([]),
        json!([{"protected": "*"}]),
        json!([1]),
        json!("x"),
    ] {
        let document = json!({"schemaVersion": 1, "fsLayers": [], "signatures": signatures});
        assert_eq!(read(None, &document).unwrap().schema1_payload, None);
    }
}

#[test]
fn a_manifest_of_the_greatest_size_is_read_in_linear_time() {
    let entry = |n: usize| descriptor(LAYER, &n.to_string());
    let layers: Vec<Value> = (0..27_000).map(entry).collect();
    let document = json!({"config": descriptor(CONFIG, "config"), "layers": layers}).to_string();
    assert!(document.len() > 4_000_000 && document.len() < MANIFEST_BYTES_MAX);
    let inspection = inspect(None, document.as_bytes()).unwrap();
    assert_eq!(inspection.children.len(), 27_001);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z:/0]{0,10}".prop_map(Value::from),
        Just(Value::from(digest("x").to_string())),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let key = prop_oneof![
            Just("mediaType"),
            Just("config"),
            Just("layers"),
            Just("manifests"),
            Just("blobs"),
            Just("fsLayers"),
            Just("digest"),
            Just("size"),
            Just("urls"),
            Just("signatures"),
            Just("protected"),
            Just("errors"),
            Just("schemaVersion"),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(key.prop_map(str::to_owned), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_object_of_a_known_type_is_read(document in any_json()) {
        let result = read(Some(media::OCI_INDEX), &document);
        let Some(members) = document.as_object() else {
            prop_assert_eq!(result, Err(ManifestError::NotJson));
            return Ok(());
        };
        if result == Err(ManifestError::ImpossibleType) {
            let says = |key: &str| members.get(key).is_some_and(Value::is_string);
            prop_assert!(says("mediaType") || says("artifactType"));
            return Ok(());
        }
        if result == Err(ManifestError::Ambiguous) {
            return Ok(());
        }
        if !members.contains_key("errors") {
            let digests: Vec<Digest> = result.unwrap().children.iter().map(|c| c.digest).collect();
            let unique: HashSet<&Digest> = digests.iter().collect();
            prop_assert_eq!(unique.len(), digests.len());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>()) {
        prop_assert!(inspect(Some("text/html"), &bytes).is_err());
    }
}
