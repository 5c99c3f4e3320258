//! The source of events: a server, or a mirror of our own on the directory.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Job, VerifyError};
use crate::app::{StartError, Unserved};
use crate::clock::SystemClock;
use crate::commands::client::{AdminClient, AdminError, Payload};
use crate::config::Config;
use crate::hosted::Hosted;
use crate::mirror::{Mirror, VerifyEvent};
use crate::server::verify;

/// Events as they come.
pub(super) enum Events {
    Server(Lines),
    Own(Box<Own>),
}

/// The server's answer.
pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// Its connection ends with it.
    _client: AdminClient,
}

/// A mirror that serves nobody.
pub(super) struct Own {
    events: mpsc::Receiver<VerifyEvent>,
    mirror: Mirror,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The server's answer when it refuses.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Events {
    /// Begins a run, at the server or, when nobody is there, here.
    pub(super) async fn begin(job: &Job) -> Result<Self, VerifyError> {
        let client = AdminClient::new(&job.admin).map_err(VerifyError)?;
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("repair", if job.repair { "true" } else { "false" });
        for image in &job.images {
            query.append_pair("image", &image.to_string());
        }
        let target = format!("/api/v1/verify?{}", query.finish());
        let answer = client.send(Method::POST, &target, Payload::none(), Some(ANSWER_WAIT));
        let answer = match (answer.await, &job.config) {
            (Ok(answer), _) => answer,
            (Err(AdminError::NotThere { .. }), Some(Ok(config))) => {
                return Own::begin(job, config.clone()).await;
            }
            (Err(AdminError::NotThere { .. }), Some(Err(error))) => {
                let admin = &job.admin;
                return Err(VerifyError(format!(
                    "nobody answers at {admin}, and the configuration is wrong: {error}"
                )));
            }
            (Err(error), _) => return Err(VerifyError(error.to_string())),
        };
        let status = answer.status();
        let mut lines = Lines {
            body: answer.into_body(),
            buffer: BytesMut::new(),
            _client: client,
        };
        if status != StatusCode::OK {
            let text = lines.line().await?.unwrap_or_default();
            let said = serde_json::from_slice(&text).map(|refusal: Refusal| refusal.error);
            let said = said.unwrap_or_else(|_| "is that the admin address?".to_owned());
            return Err(VerifyError(format!("the server answers {status}: {said}")));
        }
        Ok(Self::Server(lines))
    }

    /// The next event; `None` when there are no more.
    pub(super) async fn next(&mut self) -> Result<Option<VerifyEvent>, VerifyError> {
        match self {
            Self::Own(own) => Ok(own.events.recv().await),
            Self::Server(lines) => loop {
                let Some(line) = lines.line().await? else {
                    return Ok(None);
                };
                if line.is_empty() {
                    continue;
                }
                let event = serde_json::from_slice(&line);
                return event.map(Some).map_err(|error| {
                    VerifyError(format!("the server says what is no event: {error}"))
                });
            },
        }
    }

    /// Puts everything away.
    pub(super) async fn end(self) {
        if let Self::Own(own) = self {
            let Own {
                events,
                mirror,
                tasks,
                stop,
            } = *own;
            drop(events);
            mirror.stop().await;
            stop.cancel();
            tasks.close();
            tasks.wait().await;
        }
    }
}

impl Own {
    async fn begin(job: &Job, config: Config) -> Result<Events, VerifyError> {
        let clock = Arc::new(SystemClock);
        // A repair stores content again, and then the bounds are kept to, as by a server.
        let opened = if job.repair {
            Unserved::open(config.clone(), Arc::clone(&clock) as _).await
        } else {
            Unserved::look_into(config.clone(), Arc::clone(&clock) as _).await
        };
        let refused = |error: StartError| {
            let admin = &job.admin;
            VerifyError(format!("nobody answers at {admin}, and {error}"))
        };
        let opened = opened.map_err(refused)?;
        let hosted = opened.hosted(&config, clock, job.repair).await;
        let hosted = hosted.map_err(refused)?;
        let Unserved { mirror, store, .. } = opened;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (images, repair) = (job.images.clone(), job.repair);
        let events = verify(&mirror, hosted.as_ref(), images, repair, &tasks, &stop);
        let events = events.map_err(|busy| VerifyError(busy.to_string()))?;
        if job.repair {
            // They write what changes in the index.
            tasks.spawn(store.run(stop.clone()));
            tasks.spawn(keep(hosted, stop.clone()));
        }
        Ok(Events::Own(Box::new(Self {
            events,
            mirror,
            tasks,
            stop,
        })))
    }
}

/// Has the store of what is hosted do what it does by itself.
async fn keep(hosted: Option<Hosted>, stop: CancellationToken) {
    if let Some(hosted) = hosted {
        hosted.keep_store(stop).await;
    }
}

impl Lines {
    /// The next line without its end; `None` when there are no more.
    async fn line(&mut self) -> Result<Option<BytesMut>, VerifyError> {
        let broken = |why: &str| VerifyError(format!("the server's answer breaks off: {why}"));
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(end + 1);
                line.truncate(end);
                return Ok(Some(line));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(broken("a line without an end"));
            }
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            let frame = frame.map_err(|_elapsed| broken("nothing came for a minute"))?;
            match frame {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Ok(Some(self.buffer.split())),
                Some(frame) => {
                    let frame = frame.map_err(|error| broken(&error.to_string()))?;
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// The server answers at once, whatever it then has to do.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// It gives a sign of life every ten seconds.
const SILENCE_MAX: Duration = Duration::from_mins(1);
/// A finding names at most some twenty images, of at most some 600 characters.
const LINE_BYTES_MAX: usize = 256 * 1024;
