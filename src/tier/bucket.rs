//! The bucket: objects by their keys.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use http::Method;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, MultipartId, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, RetryConfig,
};
use url::Url;

use super::config::{Config, Encryption, Scheme};
use super::connect::{AzureKeys, Connect, GoogleKeys, Keys};
use super::error::{BucketError, without_secrets};
use super::health::{Health, Seen};
use super::lister::Lister;
use crate::net::{OwnListeners, Peer, StorageClient};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::TierOp;
use crate::upstream::StorageLogins;

/// Time for the name, TCP and TLS.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(1);

/// Time for a small object, all of it.
const SMALL_WAIT_MAX: Duration = Duration::from_secs(2);

/// Everything that is asked of a store.
trait Objects: ObjectStore + MultipartStore + Signer {}

impl<T: ObjectStore + MultipartStore + Signer> Objects for T {}

/// A bucket. Cheap to clone.
#[derive(Clone)]
pub(super) struct Bucket {
    store: Arc<dyn Objects>,
    /// The same at the address that clients are sent to.
    for_clients: Arc<dyn Objects>,
    health: Arc<Health>,
    metrics: Metrics,
    name: Arc<str>,
    storage_class: Option<Arc<str>>,
    lister: Option<Arc<Lister>>,
}

/// A part of an object on its way.
pub(super) struct Part {
    /// The offset of its first byte.
    pub(super) start: u64,
    /// The size of the object.
    pub(super) total: u64,
    pub(super) body: BoxStream<'static, Result<Bytes, BucketError>>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.name).finish()
    }
}

impl Bucket {
    /// Dials nothing.
    ///
    /// # Errors
    /// One line that names what cannot be used.
    pub(super) fn new(
        config: &Config,
        logins: &Arc<StorageLogins>,
        metrics: Metrics,
        own: &OwnListeners,
    ) -> Result<Self, String> {
        let name: Arc<str> = config.place.to_string().into();
        let health = Arc::new(Health::default());
        let connect = |endpoint: Option<&Url>| {
            Ok::<_, String>(Connect {
                client: client(config, endpoint, own.clone())?,
                health: Arc::clone(&health),
                logins: Arc::clone(logins),
                name: Arc::clone(&name),
            })
        };
        let make = |endpoint: Option<&Url>| {
            let connect = connect(endpoint)?;
            let made = objects(config, endpoint, connect, Keys(Arc::clone(logins)));
            made.map_err(|error| format!("tier: {}", without_secrets(&error)))
        };
        let store = make(config.access.endpoint.as_ref())?;
        let for_clients = match &config.redirect.endpoint {
            Some(endpoint) => make(Some(endpoint))?,
            None => Arc::clone(&store),
        };
        let lister = connect(config.access.endpoint.as_ref())?;
        let lister = Lister::new(config, lister, logins).map(Arc::new);
        Ok(Self {
            store,
            for_clients,
            lister,
            health,
            metrics,
            name,
            storage_class: config.write.storage_class.as_deref().map(Arc::from),
        })
    }

    /// Its name, for logs.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Lists uploads that were begun, where the store does.
    pub(super) fn lister(&self) -> Option<&Lister> {
        self.lister.as_deref()
    }

    /// Time for which it is not asked.
    pub(super) fn rest(&self) -> Option<Duration> {
        self.health.rest()
    }

    /// The size of an object.
    pub(super) async fn size(&self, key: &Path) -> Result<u64, BucketError> {
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let head = self.run(TierOp::Head, self.store.get_opts(key, options));
        Ok(head.await?.meta.size)
    }

    /// Opens a part of an object, or all of it.
    pub(super) async fn read(
        &self,
        key: &Path,
        start: u64,
        end: Option<u64>,
    ) -> Result<Part, BucketError> {
        let range = match (start, end) {
            (0, None) => None,
            (start, None) => Some(GetRange::Offset(start)),
            (start, Some(end)) => Some(GetRange::Bounded(start..end)),
        };
        let options = GetOptions {
            range,
            ..GetOptions::default()
        };
        let read = self.run(TierOp::Get, self.store.get_opts(key, options));
        let read = read.await?;
        let (start, total) = (read.range.start, read.meta.size);
        let metrics = self.metrics.clone();
        let body = read.into_stream().map_err(move |error| {
            metrics.tier().failed(TierOp::Get);
            BucketError::of(&error)
        });
        Ok(Part {
            start,
            total,
            body: body.boxed(),
        })
    }

    /// A small object, whole. One that is larger than `limit` is none.
    pub(super) async fn small(&self, key: &Path, limit: u64) -> Result<Bytes, BucketError> {
        let reading = async {
            let part = self.read(key, 0, None).await?;
            if part.total > limit {
                return Err(BucketError::Absent);
            }
            let mut body = part.body;
            let mut whole = Vec::with_capacity(usize::try_from(part.total).unwrap_or_default());
            while let Some(bytes) = body.next().await {
                whole.extend_from_slice(&bytes?);
                if whole.len() as u64 > limit {
                    return Err(BucketError::Absent);
                }
            }
            Ok(whole.into())
        };
        let read = tokio::time::timeout(SMALL_WAIT_MAX, reading).await;
        read.unwrap_or_else(|_late| {
            self.health.note(Seen::Silent, &"it is too slow");
            Err(BucketError::Failed("it was too slow".to_owned()))
        })
    }

    /// The reason why it rests, or rested last.
    pub(super) fn why(&self) -> Option<String> {
        self.health.why()
    }

    /// Writes an object at once.
    pub(super) async fn put(
        &self,
        key: &Path,
        bytes: PutPayload,
        media_type: &str,
    ) -> Result<(), BucketError> {
        let options = PutOptions {
            attributes: self.attributes(media_type),
            ..PutOptions::default()
        };
        let put = self.store.put_opts(key, bytes, options);
        self.run(TierOp::Put, put).await.map(drop)
    }

    /// Begins an object that is written in parts.
    pub(super) async fn begin(
        &self,
        key: &Path,
        media_type: &str,
    ) -> Result<MultipartId, BucketError> {
        let options = PutMultipartOptions {
            attributes: self.attributes(media_type),
            ..PutMultipartOptions::default()
        };
        let begin = self.store.create_multipart_opts(key, options);
        self.run(TierOp::Put, begin).await
    }

    /// Writes a part of one.
    pub(super) async fn put_part(
        &self,
        key: &Path,
        id: &MultipartId,
        number: usize,
        bytes: PutPayload,
    ) -> Result<PartId, BucketError> {
        let put = self.store.put_part(key, id, number, bytes);
        self.run(TierOp::Put, put).await
    }

    /// Ends one: now it is there.
    pub(super) async fn complete(
        &self,
        key: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<(), BucketError> {
        let complete = self.store.complete_multipart(key, id, parts);
        self.run(TierOp::Put, complete).await.map(drop)
    }

    /// Gives one up.
    pub(super) async fn abort(&self, key: &Path, id: &MultipartId) -> Result<(), BucketError> {
        self.run(TierOp::Put, self.store.abort_multipart(key, id))
            .await
    }

    /// A URL at which a client reads an object, without keys, for so long.
    pub(super) async fn url(&self, key: &Path, expires_in: Duration) -> Result<Url, BucketError> {
        let signed = self.for_clients.signed_url(Method::GET, key, expires_in);
        self.run(TierOp::Sign, signed).await
    }

    fn attributes(&self, media_type: &str) -> Attributes {
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::ContentType, media_type.to_owned().into());
        if let Some(class) = &self.storage_class {
            attributes.insert(Attribute::StorageClass, class.to_string().into());
        }
        attributes
    }

    /// Asks, unless it rests; counts what fails.
    async fn run<T>(
        &self,
        op: TierOp,
        asking: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, BucketError> {
        if self.rest().is_some() {
            return Err(BucketError::Rests);
        }
        // A library that panics over a name or an answer costs what was asked, and nothing else.
        let asking = AssertUnwindSafe(asking).catch_unwind();
        let answer = match asking.await {
            Ok(answer) => answer.map_err(|error| BucketError::of(&error)),
            Err(_panic) => Err(BucketError::Failed("its client has failed".to_owned())),
        };
        if let Err(error) = &answer
            && *error != BucketError::Absent
        {
            self.metrics.tier().failed(op);
        }
        answer
    }
}

fn client(
    config: &Config,
    endpoint: Option<&Url>,
    own: OwnListeners,
) -> Result<StorageClient<object_store::client::HttpRequestBody>, String> {
    let nowhere = Url::parse("https://bucket.invalid").map_err(|error| error.to_string())?;
    let peer = Peer {
        url: endpoint.unwrap_or(&nowhere),
        ca_file: config.access.ca_file.as_deref(),
        client_certificate: None,
        insecure_skip_verify: false,
        proxy: &config.access.proxy,
        resolve: &[],
        redirect_networks: &[],
    };
    StorageClient::new(&peer, CONNECT_WAIT_MAX, own)
}

/// The store of a scheme. It repeats nothing: a fill goes on elsewhere, and writing is tried again later.
fn objects(
    config: &Config,
    endpoint: Option<&Url>,
    connect: Connect,
    keys: Keys,
) -> object_store::Result<Arc<dyn Objects>> {
    let retry = RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    };
    let access = &config.access;
    let bucket = config.place.bucket.as_str();
    let plain = endpoint.is_some_and(|it| it.scheme() == "http");
    // Stores take an address without a slash at its end.
    let address = endpoint.map(|it| it.as_str().trim_end_matches('/').to_owned());
    Ok(match config.place.scheme {
        Scheme::S3 | Scheme::Oss => {
            let region = access.region.as_deref().unwrap_or("us-east-1");
            let mut builder = AmazonS3Builder::new()
                .with_bucket_name(bucket)
                .with_region(region)
                .with_virtual_hosted_style_request(access.virtual_hosted)
                .with_allow_http(plain)
                .with_credentials(Arc::new(keys))
                .with_retry(retry)
                .with_http_connector(connect);
            if let Some(address) = address {
                builder = builder.with_endpoint(hosted(&address, bucket, access.virtual_hosted));
            }
            builder = match &config.write.encryption {
                None => builder,
                Some(Encryption::Kms(Some(key))) => builder.with_sse_kms_encryption(key),
                Some(Encryption::Kms(None)) => encrypted(builder, "aws:kms")?,
                Some(Encryption::Aes256) => encrypted(builder, "AES256")?,
            };
            Arc::new(builder.build()?)
        }
        Scheme::Gs => {
            let mut builder = GoogleCloudStorageBuilder::new()
                .with_bucket_name(bucket)
                .with_credentials(Arc::new(GoogleKeys(keys)))
                .with_client_options(object_store::ClientOptions::default().with_allow_http(plain))
                .with_retry(retry)
                .with_http_connector(connect);
            if let Some(address) = &address {
                builder = builder.with_base_url(address);
            }
            Arc::new(builder.build()?)
        }
        Scheme::Az => {
            let mut builder = MicrosoftAzureBuilder::new()
                .with_container_name(bucket)
                .with_account(access.account.as_deref().unwrap_or_default())
                .with_credentials(Arc::new(AzureKeys(keys)))
                .with_allow_http(plain)
                .with_retry(retry)
                .with_http_connector(connect);
            if let Some(address) = address {
                builder = builder.with_endpoint(address);
            }
            Arc::new(builder.build()?)
        }
    })
}

fn encrypted(builder: AmazonS3Builder, how: &str) -> object_store::Result<AmazonS3Builder> {
    Ok(builder.with_config("aws_server_side_encryption".parse()?, how))
}

/// The address with the bucket's name in the host, where that is how the store has it.
pub(super) fn hosted(address: &str, bucket: &str, virtual_hosted: bool) -> String {
    match address.split_once("://") {
        Some((scheme, rest)) if virtual_hosted => format!("{scheme}://{bucket}.{rest}"),
        Some(_) | None => address.to_owned(),
    }
}
