//! `credential-provider`: a kubelet's exec plugin, so that a node pulls with the token of the pod's service account and
//! no secret is kept in the cluster (kubelet.config.k8s.io `CredentialProviderConfig`, KEP-4412).
//!
//! The kubelet writes a request with the image and the token to standard input, and reads the credentials from standard
//! output. The token is the password: roadstead checks it by `[[access.oidc]]`.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde::{Deserialize, Serialize};

/// The versions of the API, the last of which is answered where none is named.
const API_VERSIONS: [&str; 2] = [
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1",
];

/// The longest request: a token, a name, annotations.
const REQUEST_BYTES_MAX: u64 = 1024 * 1024;

/// The user name, which roadstead does not look at.
const USER: &str = "serviceaccount";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    api_version: String,
    image: String,
    #[serde(default)]
    service_account_token: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    kind: &'static str,
    api_version: String,
    cache_key_type: &'static str,
    cache_duration: &'static str,
    auth: BTreeMap<String, Login>,
}

#[derive(Debug, Serialize)]
struct Login {
    username: &'static str,
    password: String,
}

/// Answers the request on standard input.
///
/// # Errors
/// One line: it makes no sense, or has no token.
pub fn answer() -> Result<String, String> {
    let mut text = String::new();
    let read = std::io::stdin()
        .take(REQUEST_BYTES_MAX + 1)
        .read_to_string(&mut text);
    read.map_err(|error| format!("the request cannot be read: {error}"))?;
    if text.len() as u64 > REQUEST_BYTES_MAX {
        return Err(format!(
            "the request has more than {REQUEST_BYTES_MAX} bytes"
        ));
    }
    answer_to(&text)
}

fn answer_to(text: &str) -> Result<String, String> {
    let request: Request = serde_json::from_str(text).map_err(|error| {
        // Without what it says, which may be a token.
        let (line, column) = (error.line(), error.column());
        format!("the request is no CredentialProviderRequest (line {line}, column {column})")
    })?;
    let version = match request.api_version.as_str() {
        "" => "credentialprovider.kubelet.k8s.io/v1",
        given => API_VERSIONS
            .into_iter()
            .find(|known| *known == given)
            .ok_or_else(|| {
                format!(
                    "the version {given:?} is not known; {} are",
                    API_VERSIONS.join(" and ")
                )
            })?,
    };
    if request.service_account_token.is_empty() {
        return Err(
            "the request has no serviceAccountToken: set tokenAttributes.serviceAccountTokenAudience in the kubelet's CredentialProviderConfig"
                .to_owned(),
        );
    }
    let registry = request
        .image
        .split('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let response = Response {
        kind: "CredentialProviderResponse",
        api_version: version.to_owned(),
        cache_key_type: "Registry",
        // The kubelet asks with another token for each pod, and tokens end.
        cache_duration: "0s",
        auth: BTreeMap::from([(
            registry,
            Login {
                username: USER,
                password: request.service_account_token,
            },
        )]),
    };
    serde_json::to_string(&response).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_token_is_the_password_for_the_images_registry() {
        let request = json!({
            "kind": "CredentialProviderRequest",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "image": "mirror.corp:5000/team/app:1",
            "serviceAccountToken": "a.b.c",
        });
        let answer: Value =
            serde_json::from_str(&answer_to(&request.to_string()).unwrap()).unwrap();
        let expected = json!({
            "kind": "CredentialProviderResponse",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "cacheKeyType": "Registry",
            "cacheDuration": "0s",
            "auth": { "mirror.corp:5000": { "username": "serviceaccount", "password": "a.b.c" } },
        });
        assert_eq!(answer, expected);
    }

    #[test]
    fn what_cannot_be_answered_is_told_without_the_token() {
        let table = [
            ("", "is no CredentialProviderRequest"),
            (
                r#"{"image": "a", "serviceAccountToken": 5}"#,
                "is no CredentialProviderRequest",
            ),
            (r#"{"image": "a/b"}"#, "tokenAttributes"),
            (
                r#"{"apiVersion": "v9", "image": "a/b", "serviceAccountToken": "t0ken"}"#,
                "v9",
            ),
        ];
        for (text, expected) in table {
            let why = answer_to(text).expect_err(text);
            assert!(why.contains(expected) && !why.contains("t0ken"), "{why}");
        }
    }
}
