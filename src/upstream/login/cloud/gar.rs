//! Google Artifact Registry and `gcr.io`: an `OAuth2` access token is the password of the user
//! `oauth2accesstoken`.
//!
//! Sources: Artifact Registry, "Configure authentication to Artifact Registry for Docker"; Compute
//! Engine, "Authenticate workloads using service accounts"; "Using OAuth 2.0 for Server to Server
//! Applications".

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::call::{Call, Caller, service_url};
use super::{Fetched, basic, input, jwt};
use crate::upstream::login::CloudUrls;
use crate::upstream::{FetchError, Secret};

/// The configuration.
pub(super) struct Gar<'a> {
    pub(super) key_file: &'a Option<PathBuf>,
    pub(super) urls: &'a CloudUrls,
}

impl Gar<'_> {
    /// A login to any of Google's registries.
    ///
    /// # Errors
    /// [`FetchError::Login`], [`FetchError::Timeout`].
    pub(super) async fn login(&self, caller: Caller<'_>) -> Result<Fetched, FetchError> {
        let (token, good_for) = self.token(caller).await?;
        Ok(Fetched {
            login: basic("oauth2accesstoken", token.expose()),
            good_for,
        })
    }

    /// An access token, and how long it is good for.
    ///
    /// # Errors
    /// [`FetchError::Login`], [`FetchError::Timeout`].
    pub(super) async fn token(&self, caller: Caller<'_>) -> Result<(Secret, Duration), FetchError> {
        let answer = if let Some(path) = self.key_file {
            exchange(path, self.urls.identity.as_ref(), caller).await?
        } else {
            let usual = "http://metadata.google.internal";
            let url = service_url(self.urls.metadata.as_ref(), usual, METADATA_PATH)?;
            let call = Call::new("Google metadata", Method::GET, url);
            let call = call.with("metadata-flavor", "Google");
            caller.send(call).await?
        };
        let answer = answer.json()?;
        let token = Secret::new(answer.text("/access_token")?.to_owned());
        Ok((token, answer.life("/expires_in")?))
    }
}

/// A service account's key, as Google's console gives it.
#[derive(Deserialize)]
struct ServiceAccount {
    #[serde(rename = "type")]
    kind: String,
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
    token_uri: String,
}

/// Exchanges a token that the service account's key signed for an access token (RFC 7523).
async fn exchange(
    path: &Path,
    identity: Option<&Url>,
    caller: Caller<'_>,
) -> Result<super::call::Answer, FetchError> {
    let wrong = |why: &str| FetchError::Login(format!("{}: {why}", path.display()));
    let text = input::file(path, caller).await?;
    // serde's own error might quote what it could not read.
    let account: ServiceAccount = serde_json::from_str(text.expose())
        .map_err(|_| wrong("not the JSON key of a service account"))?;
    if account.kind != "service_account" {
        return Err(wrong("not the key of a service account"));
    }
    let usual = Url::parse(&account.token_uri).map_err(|_| wrong("its token_uri is no URL"))?;
    let seconds = caller.now().0 / 1000;
    let claims = json!({
        "iss": account.client_email,
        "scope": SCOPE,
        "aud": account.token_uri,
        "iat": seconds,
        "exp": seconds.saturating_add(ASSERTION_SECONDS),
    });
    let key = Secret::new(account.private_key);
    let assertion = jwt::signed(&key, account.private_key_id.as_deref(), &claims).map_err(wrong)?;
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", assertion.expose()),
    ];
    let url = identity.cloned().unwrap_or(usual);
    caller.send(Call::form("Google OAuth", url, &form)).await
}

const METADATA_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
/// The account's roles say what it may do there; the registries take no narrower scope in common.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// The longest that Google takes.
const ASSERTION_SECONDS: u64 = 3600;
