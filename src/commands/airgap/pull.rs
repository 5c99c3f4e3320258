//! Requests to the mirror that is exported from: what `warm` asks, but the bytes are kept.

use std::fmt;
use std::path::PathBuf;

use http::{Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use url::Url;

use super::AirgapError;
use super::files::BlobFile;
use super::progress::Reporter;
use crate::commands::client::tls_advice;
use crate::commands::plain::PlainClient;
use crate::commands::warm::server::{
    ERROR_BYTES_MAX, HEADER_TIMEOUT, IDLE_TIMEOUT, accept, passes, target, waits,
};
use crate::oci::manifest::MANIFEST_BYTES_MAX;
use crate::oci::route::{Route, Target};
use crate::oci::{Algorithm, Digest, ImageName, Reference};
use crate::server::SOURCE;
use crate::telemetry::metrics::HOSTED;

/// The mirror.
pub(super) struct Mirror {
    client: PlainClient,
}

/// An image, and where it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) image: ImageName,
    /// It is hosted there, and not the upstream's that names without one are of.
    pub(super) is_hosted: bool,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ImageName {
            repository,
            reference,
            ..
        } = &self.image;
        match reference {
            _ if !self.is_hosted => self.image.fmt(f),
            Reference::Tag(tag) => write!(f, "{repository}:{tag}"),
            Reference::Digest(digest) => write!(f, "{repository}@{digest}"),
        }
    }
}

impl Asked {
    fn target(&self, route: Route) -> String {
        if self.is_hosted {
            return Target { route, ns: None }.to_string();
        }
        target(&self.image, route)
    }
}

/// A manifest, its digest computed from its bytes.
pub(super) struct Manifest {
    pub(super) digest: Digest,
    pub(super) content_type: Option<String>,
    pub(super) bytes: Vec<u8>,
}

/// The reason that one request gave nothing.
struct Failure {
    why: String,
    /// True if another one may give something.
    passes: bool,
}

impl Mirror {
    pub(super) fn new(server: &Url, ca_file: Option<PathBuf>) -> Result<Self, AirgapError> {
        let client = PlainClient::new(server, ca_file).map_err(AirgapError)?;
        Ok(Self { client })
    }

    /// Checks that a registry answers.
    pub(super) async fn ping(&self, server: &Url) -> Result<(), AirgapError> {
        let path = Route::Ping.path();
        let answer = self.client.get(&path, None, HEADER_TIMEOUT).await.map(drop);
        answer.map_err(|error| {
            let why = error.to_string();
            let advice = tls_advice(&why, "--ca-file", "--server");
            AirgapError(format!(
                "no registry answers at {server}: {why}{advice} (is `roadstead serve` running? --server names another)"
            ))
        })
    }

    /// True if the server has an image of this name, written without an upstream, among those that were pushed to it.
    pub(super) async fn hosts(&self, name: &ImageName) -> bool {
        let route = Route::Manifest {
            path: name.repository.to_string(),
            reference: name.reference.clone(),
        };
        let target = Target { route, ns: None }.to_string();
        // Whatever else it answers is told when it is asked for the upstream's.
        let answer = self.get(&target, Some(&accept())).await;
        answer.is_ok_and(|answer| {
            let source = answer.headers().get(SOURCE);
            source.is_some_and(|it| it == HOSTED)
        })
    }

    /// A manifest, tried several times.
    pub(super) async fn manifest(
        &self,
        name: &Asked,
        reference: &Reference,
    ) -> Result<Manifest, AirgapError> {
        let route = Route::Manifest {
            path: name.image.repository.to_string(),
            reference: reference.clone(),
        };
        let target = name.target(route);
        let what = format!("{name}: manifest {reference}");
        repeated(what, async |_| self.manifest_once(&target, reference).await).await
    }

    async fn manifest_once(
        &self,
        target: &str,
        reference: &Reference,
    ) -> Result<Manifest, Failure> {
        let answer = self.get(target, Some(&accept())).await?;
        let text = |name: &str| {
            let value = answer.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let content_type = text(header::CONTENT_TYPE.as_str());
        let said = text("docker-content-digest").and_then(|text| Digest::parse(&text).ok());
        let mut body = answer.into_body();
        let mut bytes = Vec::new();
        while let Some(data) = next(&mut body).await? {
            if bytes.len() + data.len() > MANIFEST_BYTES_MAX {
                let why = format!("it has more than {MANIFEST_BYTES_MAX} bytes");
                return Err(Failure { why, passes: false });
            }
            bytes.extend_from_slice(&data);
        }
        let wanted = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => said,
        };
        let algorithm = wanted.map_or(Algorithm::Sha256, |digest| digest.algorithm());
        let digest = Digest::of(algorithm, &bytes);
        if wanted.is_some_and(|wanted| wanted != digest) {
            let why = format!("the bytes have the digest {digest}");
            return Err(Failure { why, passes: true });
        }
        Ok(Manifest {
            digest,
            content_type,
            bytes,
        })
    }

    /// A blob, written to `file` and checked against its digest there, tried several times.
    pub(super) async fn blob(
        &self,
        name: &Asked,
        digest: &Digest,
        file: &mut BlobFile,
        reporter: &Reporter,
    ) -> Result<(), AirgapError> {
        let route = Route::Blob {
            path: name.image.repository.to_string(),
            digest: *digest,
        };
        let target = name.target(route);
        let what = format!("{name}: blob {digest}");
        repeated(what, async |is_first| {
            if !is_first {
                file.restart().map_err(|error| Failure {
                    why: error.to_string(),
                    passes: false,
                })?;
            }
            self.blob_once(&target, file, reporter).await
        })
        .await
    }

    async fn blob_once(
        &self,
        target: &str,
        file: &mut BlobFile,
        reporter: &Reporter,
    ) -> Result<(), Failure> {
        let mut body = self.get(target, None).await?.into_body();
        let mut shown = 0;
        let failure = loop {
            let data = match next(&mut body).await {
                Ok(Some(data)) => data,
                Ok(None) => match file.finish() {
                    Ok(()) => return Ok(()),
                    Err(why) => break Failure { why, passes: true },
                },
                Err(failure) => break failure,
            };
            shown += data.len() as u64;
            reporter.progress.advance(data.len() as u64);
            // It blocks, and may: the command has nothing else to do meanwhile.
            if let Err(why) = file.write(&data) {
                break Failure { why, passes: false };
            }
        };
        reporter.progress.take_back(shown);
        Err(failure)
    }

    async fn get(&self, target: &str, accept: Option<&str>) -> Result<Response<Incoming>, Failure> {
        let answer = self.client.get(target, accept, HEADER_TIMEOUT).await;
        let answer = answer.map_err(|error| Failure {
            why: error.to_string(),
            passes: true,
        })?;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let passes = passes(status.as_u16());
        let mut text = Vec::new();
        let mut body = answer.into_body();
        while let Ok(Some(data)) = next(&mut body).await {
            text.extend_from_slice(&data);
            if text.len() > ERROR_BYTES_MAX {
                break;
            }
        }
        let said: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
        let said = said.as_ref().and_then(|said| {
            let message = said.get("errors")?.get(0)?.get("message")?.as_str()?;
            Some(message.replace(char::is_control, " "))
        });
        let why = said.map_or_else(|| status.to_string(), |said| format!("{status}: {said}"));
        Err(Failure { why, passes })
    }
}

/// Does something until it is done, or trying again is of no use.
async fn repeated<T>(
    what: String,
    mut work: impl AsyncFnMut(bool) -> Result<T, Failure>,
) -> Result<T, AirgapError> {
    let mut waits = waits(RETRIES);
    let mut is_first = true;
    loop {
        let failure = match work(is_first).await {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        let Some(wait) = waits.next().filter(|_| failure.passes) else {
            return Err(AirgapError::of(what, failure.why));
        };
        tokio::time::sleep(wait).await;
        is_first = false;
    }
}

async fn next(body: &mut Incoming) -> Result<Option<bytes::Bytes>, Failure> {
    let passes = true;
    loop {
        let frame = tokio::time::timeout(IDLE_TIMEOUT, body.frame()).await;
        let frame = frame.map_err(|_elapsed| Failure {
            why: "nothing more came".to_owned(),
            passes,
        })?;
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => {
                let why = format!("the transfer broke off: {error}");
                return Err(Failure { why, passes });
            }
        }
    }
}

/// Waits of half a minute in all; the server repeats its own questions to upstreams, too.
const RETRIES: usize = 6;
