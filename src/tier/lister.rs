//! The list of uploads in parts that were begun, as stores with Amazon's protocol give it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Request;
use http_body_util::{BodyExt as _, Limited};
use object_store::CredentialProvider as _;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpRequestBody, HttpService as _};
use serde::Deserialize;
use url::Url;

use super::bucket::hosted;
use super::config::{Config, Scheme};
use super::connect::{Connect, Keys};
use super::error::BucketError;
use crate::oci::Digest;
use crate::upstream::StorageLogins;

/// An upload that was begun longer ago than this, and that this node does not know, is nobody's.
const OLD: Duration = Duration::from_hours(24);

/// The answer with a thousand of them takes some hundred kilobytes.
const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Lists uploads.
#[derive(Clone, Debug)]
pub(super) struct Lister {
    base: Url,
    region: String,
    connect: Connect,
    logins: Arc<StorageLogins>,
}

/// The answer of a store (`ListMultipartUploads` of Amazon's API).
#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Upload", default)]
    uploads: Vec<Left>,
}

/// An upload that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Left {
    #[serde(rename = "Key")]
    pub(super) key: String,
    #[serde(rename = "UploadId")]
    pub(super) id: String,
    #[serde(rename = "Initiated")]
    begun: String,
}

impl Lister {
    /// `None` for a store that does not list them.
    pub(super) fn new(
        config: &Config,
        connect: Connect,
        logins: &Arc<StorageLogins>,
    ) -> Option<Self> {
        if !matches!(config.place.scheme, Scheme::S3 | Scheme::Oss) {
            return None;
        }
        let region = config.access.region.clone();
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        let bucket = &config.place.bucket;
        let base = match &config.access.endpoint {
            None => format!("https://{bucket}.s3.{region}.amazonaws.com/"),
            Some(endpoint) => {
                let address = endpoint.as_str().trim_end_matches('/');
                let place = hosted(address, bucket, config.access.virtual_hosted);
                if config.access.virtual_hosted {
                    format!("{place}/")
                } else {
                    format!("{place}/{bucket}/")
                }
            }
        };
        Some(Self {
            base: Url::parse(&base).ok()?,
            region,
            connect,
            logins: Arc::clone(logins),
        })
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<Left>, BucketError> {
        let failed = |why: &dyn std::fmt::Display| BucketError::Failed(why.to_string());
        let mut url = self.base.clone();
        url.query_pairs_mut()
            .append_pair("uploads", "")
            .append_pair("max-uploads", "1000")
            .append_pair("prefix", prefix);
        let keys = Keys(Arc::clone(&self.logins)).get_credential().await;
        let keys = keys.map_err(|error| failed(&error))?;
        let request = Request::builder().uri(url.as_str());
        let request = request.body(HttpRequestBody::empty());
        let mut request = request.map_err(|error| failed(&error))?;
        AwsAuthorizer::new(&keys, "s3", &self.region)
            .try_authorize(&mut request, None)
            .map_err(|error| failed(&error))?;
        let response = self.connect.call(request).await;
        let response = response.map_err(|error| failed(&error))?;
        if !response.status().is_success() {
            return Err(failed(&response.status()));
        }
        let body = Limited::new(response.into_body(), LIST_BYTES_MAX);
        let body = body.collect().await.map_err(|error| failed(&error))?;
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let listed: Listed = quick_xml::de::from_str(&text).map_err(|error| failed(&error))?;
        Ok(listed.uploads)
    }
}

impl Left {
    pub(super) fn is_old(&self, now: SystemTime) -> bool {
        let begun = humantime::parse_rfc3339(&self.begun);
        begun.is_ok_and(|begun| now.duration_since(begun).is_ok_and(|age| age > OLD))
    }

    /// The blob that it is of.
    pub(super) fn digest(&self) -> Option<Digest> {
        let mut parts = self.key.rsplit('/');
        let hex = parts.next()?;
        let algorithm = parts.nth(1)?;
        Digest::parse(&format!("{algorithm}:{hex}")).ok()
    }
}
