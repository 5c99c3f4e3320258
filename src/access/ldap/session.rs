//! One connection to a directory, and one question after the other on it.

use super::directory::Directory;
use super::message::{self, Answer, Entry, Outcome, Search};
use crate::net::{BoxStream, Dialer, Secret};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// All that a directory may send for one login, in bytes.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Searches of one login: the user, and all groups together.
pub(super) const SEARCHES_MAX: usize = 2;

/// Time that the directory itself may take for a search, in seconds; [`super::LOGIN_WAIT_MAX`] ends it in any case.
const SEARCH_SECONDS_MAX: i64 = 5;

/// The reason why a login could not be checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The directory cannot be used now, whoever logs in.
    #[error("{0}")]
    Down(String),
    /// Its word on this user cannot be used.
    #[error("{0}")]
    Unusable(String),
}

/// A connection.
pub(super) struct Session {
    stream: BoxStream,
    received: BytesMut,
    bytes: usize,
    id: u32,
    searches: usize,
}

impl Session {
    /// Connects as it is configured: TLS at once, after it was asked for, or not at all.
    ///
    /// # Errors
    /// [`Failure::Down`].
    pub(super) async fn open(directory: &Directory, dialer: &Dialer) -> Result<Self, Failure> {
        let failed = |error: crate::net::Error| Failure::Down(error.to_string());
        let stream = dialer.dial().await.map_err(failed)?;
        let stream = if directory.server.is_ldaps() {
            dialer.secure(stream).await.map_err(failed)?
        } else {
            stream
        };
        let mut session = Self::over(stream);
        if directory.server.start_tls {
            session.start_tls().await?;
            session.stream = dialer.secure(session.stream).await.map_err(failed)?;
        }
        Ok(session)
    }

    fn over(stream: BoxStream) -> Self {
        Self {
            stream,
            received: BytesMut::new(),
            bytes: 0,
            id: 0,
            searches: 0,
        }
    }

    /// Asks the server to begin TLS.
    async fn start_tls(&mut self) -> Result<(), Failure> {
        let id = self.next();
        let outcome = match self.ask(&message::start_tls(id)).await? {
            Answer::Extended(outcome) => outcome,
            Answer::Bound(_) | Answer::Entry(_) | Answer::Done(_) | Answer::Aside => {
                return Err(nonsense());
            }
        };
        if outcome.code != 0 {
            return Err(Failure::Down(format!("it refuses StartTLS: {outcome}")));
        }
        // What somebody on the way has put there before TLS began would be taken for the server's (CVE-2021-33880 and others).
        if !self.received.is_empty() {
            return Err(nonsense());
        }
        Ok(())
    }

    /// Binds by name and password. True: they are right.
    ///
    /// # Errors
    /// The server does not say whether they are.
    pub(super) async fn bind(&mut self, name: &str, password: &Secret) -> Result<bool, Failure> {
        // A bind without a password succeeds for everybody, and means nobody (RFC 4513 section 5.1.2).
        if name.is_empty() || password.expose().is_empty() {
            return Ok(false);
        }
        let id = self.next();
        let request = message::bind(id, name, password.expose());
        let outcome = match self.ask(&request).await? {
            Answer::Bound(outcome) => outcome,
            Answer::Entry(_) | Answer::Done(_) | Answer::Extended(_) | Answer::Aside => {
                return Err(nonsense());
            }
        };
        match outcome.code {
            0 => Ok(true),
            // No such user, a name that can be nobody's, no password, locked: constraintViolation, noSuchObject,
            // invalidDNSyntax, inappropriateAuthentication, invalidCredentials, insufficientAccessRights, unwillingToPerform.
            19 | 32 | 34 | 48 | 49 | 50 | 53 => Ok(false),
            _ => Err(outcome.failure("it does not check passwords")),
        }
    }

    /// The entries that a search finds.
    ///
    /// # Errors
    /// There are more than `entries_max`, or the server cannot tell.
    pub(super) async fn search(&mut self, search: Search<'_>) -> Result<Vec<Entry>, Failure> {
        self.searches += 1;
        // The steps of a login are written so that it does not come to this.
        if self.searches > SEARCHES_MAX {
            return Err(Failure::Unusable("too many searches".to_owned()));
        }
        let (id, base) = (self.next(), search.base.to_owned());
        let most = usize::try_from(search.entries_max).unwrap_or_default();
        self.send(&message::search(id, search)).await?;
        let mut entries = Vec::new();
        loop {
            match self.answer(id).await? {
                Answer::Entry(entry) if entries.len() < most => entries.push(entry),
                Answer::Entry(_) => {
                    let why = format!("more than {most} entries below {base:?}");
                    return Err(Failure::Unusable(why));
                }
                // Nobody is sent anywhere else with credentials.
                Answer::Aside => {}
                Answer::Done(outcome) if outcome.code == 0 => return Ok(entries),
                Answer::Done(outcome) => {
                    return Err(outcome.failure(&format!("a search below {base:?} fails")));
                }
                Answer::Bound(_) | Answer::Extended(_) => return Err(nonsense()),
            }
        }
    }

    /// Says goodbye; nobody waits for what comes of it.
    pub(super) async fn close(mut self) {
        let request = message::unbind(self.next());
        self.send(&request).await.ok();
    }

    fn next(&mut self) -> u32 {
        self.id += 1;
        self.id
    }

    async fn ask(&mut self, request: &[u8]) -> Result<Answer, Failure> {
        self.send(request).await?;
        self.answer(self.id).await
    }

    async fn send(&mut self, request: &[u8]) -> Result<(), Failure> {
        let sent = async {
            self.stream.write_all(request).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| broken(&error.to_string()))
    }

    /// The next answer, which is to be of this request.
    async fn answer(&mut self, id: u32) -> Result<Answer, Failure> {
        loop {
            let whole = message::length(&self.received).map_err(malformed)?;
            if let Some(length) = whole.filter(|length| *length <= self.received.len()) {
                let bytes = self.received.split_to(length);
                let (of, answer) = message::parse(&bytes).map_err(malformed)?;
                return match (of, answer) {
                    // Unasked: the server says why it closes the connection (RFC 4511 section 4.4.1).
                    (0, Answer::Extended(outcome)) => {
                        Err(Failure::Down(format!("it hangs up: {outcome}")))
                    }
                    (of, answer) if of == id => Ok(answer),
                    _ => Err(nonsense()),
                };
            }
            if self.bytes > BYTES_MAX {
                let why = format!("it sends more than {BYTES_MAX} bytes for one login");
                return Err(Failure::Unusable(why));
            }
            let read = self.stream.read_buf(&mut self.received).await;
            match read.map_err(|error| broken(&error.to_string()))? {
                0 => return Err(broken("it has hung up")),
                read => self.bytes += read,
            }
        }
    }
}

impl Outcome {
    /// The failure that this result is.
    fn failure(&self, what: &str) -> Failure {
        let why = format!("{what}: {self}");
        match self.code {
            // operationsError, protocolError, strongerAuthRequired, confidentialityRequired, busy, unavailable, other:
            // the same whoever asks.
            1 | 2 | 8 | 13 | 51 | 52 | 80 => Failure::Down(why),
            _ => Failure::Unusable(why),
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "result {}", self.code)?;
        if !self.text.is_empty() {
            write!(f, " ({})", self.text)?;
        }
        Ok(())
    }
}

/// The parts of a search that are the same for all.
pub(super) fn search<'a>(
    base: &'a str,
    filter: &str,
    attributes: &'a [&'a str],
    entries_max: i64,
) -> Result<Search<'a>, Failure> {
    let filter = ldap3::parse_filter(filter);
    // Templates were checked, and values are escaped.
    let filter = filter.map_err(|()| Failure::Unusable("a filter that is none".to_owned()))?;
    Ok(Search {
        base,
        is_entry: false,
        filter,
        attributes,
        entries_max,
        seconds_max: SEARCH_SECONDS_MAX,
    })
}

fn broken(why: &str) -> Failure {
    Failure::Down(format!("the connection breaks: {why}"))
}

fn malformed(why: message::Malformed) -> Failure {
    Failure::Down(why.to_string())
}

fn nonsense() -> Failure {
    Failure::Down("it answers what was not asked".to_owned())
}
