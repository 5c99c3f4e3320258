//! `object_store` over our own connections, and with our own keys.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use object_store::aws::AwsCredential;
use object_store::azure::{AzureAccessKey, AzureCredential};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use object_store::gcp::GcpCredential;
use object_store::{ClientOptions, CredentialProvider};

use super::health::{Health, News, Seen};
use crate::net::{Error, StorageClient};
use crate::upstream::{StorageKeys, StorageLogins};

/// Time for the first byte of what is read: a slow store is a miss.
const READ_WAIT_MAX: Duration = Duration::from_secs(3);

/// Time for writing one part, and for what a store does at the end of an upload.
const WRITE_WAIT_MAX: Duration = Duration::from_mins(2);

/// Bytes of an answer that is no object: an error's text, or the end of an upload.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Requests to the store. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connect {
    pub(super) client: StorageClient<HttpRequestBody>,
    pub(super) health: Arc<Health>,
    pub(super) logins: Arc<StorageLogins>,
    /// The bucket, for logs.
    pub(super) name: Arc<str>,
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connect").field(&self.name).finish()
    }
}

impl Connect {
    fn note(&self, seen: Seen, why: &dyn fmt::Display) {
        match self.health.note(seen, why) {
            Some(News::Down) => {
                tracing::warn!(bucket = %self.name, %why, "the object store does not answer: it is left alone for some seconds at a time, and what it has is fetched from upstreams meanwhile");
            }
            Some(News::Up) => {
                tracing::info!(bucket = %self.name, "the object store answers again");
            }
            None => {}
        }
    }
}

impl HttpConnector for Connect {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connect {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_get = *request.method() == Method::GET;
        let reads = is_get || *request.method() == Method::HEAD;
        let within = if reads { READ_WAIT_MAX } else { WRITE_WAIT_MAX };
        let host = request.uri().host().unwrap_or_default().to_owned();
        let response = match self.client.send(request, within).await {
            Ok(response) => response,
            Err(error) => {
                self.note(Seen::Silent, &format_args!("{host}: {error}"));
                let kind = match &error {
                    Error::Connect(_) => HttpErrorKind::Connect,
                    Error::Timeout(_) => HttpErrorKind::Timeout,
                    Error::Broken(_)
                    | Error::TooLarge { .. }
                    | Error::Protocol(_)
                    | Error::Inside(_)
                    | Error::Ourselves(_) => HttpErrorKind::Request,
                };
                return Err(HttpError::new(kind, error));
            }
        };
        let status = response.status();
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                self.note(Seen::Throttled, &status);
            }
            // Another key may be in the file by now.
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                self.logins.refused().await;
                self.note(Seen::Well, &status);
            }
            _ if status.is_server_error() => self.note(Seen::Failed, &status),
            _ => self.note(Seen::Well, &status),
        }
        let (head, body) = response.into_parts();
        let body = if is_get && status.is_success() {
            let body = body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error));
            HttpResponseBody::new(body)
        } else {
            // What is no object is read whole by whoever asked, without a bound of its own.
            let whole = Limited::new(body, ANSWER_BYTES_MAX).collect();
            let whole = match tokio::time::timeout(within, whole).await {
                Ok(Ok(whole)) => whole.to_bytes(),
                Ok(Err(error)) => {
                    return Err(HttpError::new_boxed(HttpErrorKind::Interrupted, error));
                }
                Err(late) => {
                    self.note(Seen::Silent, &late);
                    return Err(HttpError::new(HttpErrorKind::Timeout, late));
                }
            };
            HttpResponseBody::from(whole)
        };
        Ok(HttpResponse::from_parts(head, body))
    }
}

/// Keys in the form that one of the clouds' protocols has.
#[derive(Debug)]
pub(super) struct Keys(pub(super) Arc<StorageLogins>);

impl Keys {
    async fn get(&self) -> object_store::Result<Arc<StorageKeys>> {
        self.0
            .keys()
            .await
            .map_err(|error| failed(error.to_string()))
    }
}

#[async_trait]
impl CredentialProvider for Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        match &*self.get().await? {
            StorageKeys::Signing { id, secret, token } => Ok(Arc::new(AwsCredential {
                key_id: id.expose().to_owned(),
                secret_key: secret.expose().to_owned(),
                token: token.as_ref().map(|token| token.expose().to_owned()),
            })),
            StorageKeys::Account(_) | StorageKeys::Bearer(_) => Err(other_keys()),
        }
    }
}

/// The same for Google's.
#[derive(Debug)]
pub(super) struct GoogleKeys(pub(super) Keys);

#[async_trait]
impl CredentialProvider for GoogleKeys {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<GcpCredential>> {
        match &*self.0.get().await? {
            StorageKeys::Bearer(token) => Ok(Arc::new(GcpCredential {
                bearer: token.expose().to_owned(),
            })),
            StorageKeys::Account(_) | StorageKeys::Signing { .. } => Err(other_keys()),
        }
    }
}

/// The same for Azure's.
#[derive(Debug)]
pub(super) struct AzureKeys(pub(super) Keys);

#[async_trait]
impl CredentialProvider for AzureKeys {
    type Credential = AzureCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AzureCredential>> {
        let credential = match &*self.0.get().await? {
            StorageKeys::Bearer(token) => AzureCredential::BearerToken(token.expose().to_owned()),
            StorageKeys::Account(key) => {
                let key = AzureAccessKey::try_new(key.expose())
                    .map_err(|_| failed("the account's key is not Base64".to_owned()))?;
                AzureCredential::AccessKey(key)
            }
            StorageKeys::Signing { .. } => return Err(other_keys()),
        };
        Ok(Arc::new(credential))
    }
}

fn other_keys() -> object_store::Error {
    failed("these are no keys for this kind of store".to_owned())
}

fn failed(why: String) -> object_store::Error {
    object_store::Error::Generic {
        store: "login",
        source: why.into(),
    }
}
