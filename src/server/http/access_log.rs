//! One request from its arrival to the end of its body: one access line, one count.

use super::account::Account;
use super::request_id::RequestId;
use super::request_span::RequestSpan;
use crate::audit::{Denial, Event, Login, Pull};
use crate::mirror::ClientId;
use crate::oci::{Digest, ErrorCode, Reference, Repository, UpstreamName};
use crate::server::visits::{self, PullId, Visit, Visits};
use crate::telemetry::access::{self, AccessLine};
use crate::telemetry::{Kind, Metrics, Outcome, logging};
use http::{HeaderValue, Method, StatusCode, Uri, header, request};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// So much of a path is logged: more than the longest valid one (a name of 255 characters, a
/// sha512 digest and the words between), so that only nonsense is cut.
const PATH_LOGGED_BYTES_MAX: usize = 512;

/// So much of a `User-Agent` is logged; dockerd's, the longest known, is about 200 bytes.
const USER_AGENT_LOGGED_BYTES_MAX: usize = 256;

/// The status logged for a request whose client left before there was an answer: nginx's number
/// for it, which log readers know.
const STATUS_CLIENT_CLOSED: u16 = 499;

/// The end of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    /// All of it was handed to the connection.
    Complete,
    /// The body broke off, and the connection with it. An error line has said why.
    Failed,
    /// The client left, or the drain's time was over. What is not ended otherwise was cancelled.
    Cancelled,
}

/// A client's address, and which of its connections this is: one for all requests of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    text: Arc<str>,
    ip: IpAddr,
    id: ClientId,
    connection: u64,
}

impl Client {
    /// The address.
    pub(crate) fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The identifier by which its share of upstreams is counted.
    pub(crate) fn id(&self) -> ClientId {
        self.id
    }

    /// A client that this one, a proxy, speaks for on the same connection.
    pub(crate) fn behind(&self, address: IpAddr) -> Self {
        Self {
            text: address.to_string().into(),
            ip: address,
            id: ClientId::new(address, self.connection),
            connection: self.connection,
        }
    }
}

/// Each connection has a number of its own.
impl From<SocketAddr> for Client {
    fn from(address: SocketAddr) -> Self {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        Self {
            text: address.to_string().into(),
            ip: address.ip(),
            id: ClientId::new(address.ip(), connection),
            connection,
        }
    }
}

/// Knowledge about a request. Dropping it writes the access line: exactly one, however it ends.
#[derive(Debug)]
pub(crate) struct Exchange {
    id: RequestId,
    client: Client,
    method: Method,
    uri: Uri,
    user_agent: Option<HeaderValue>,
    started: Instant,
    metrics: Metrics,
    pub(crate) account: Account,
    /// Its span, if it is traced.
    pub(crate) span: Option<Box<RequestSpan>>,
    kind: Kind,
    upstream: Option<UpstreamName>,
    echoes_upstream: bool,
    repository: Option<Repository>,
    reference: Option<Reference>,
    /// The digest that was asked for, or that a tag named.
    digest: Option<Digest>,
    /// Set when the head of the response is known.
    answer: Option<(StatusCode, Outcome)>,
    /// The reason of an error.
    refused: Option<String>,
    first_byte: Option<Instant>,
    bytes: u64,
    ended: Ended,
    visits: Option<Visits>,
    /// The pull that counts it as a request under way.
    pull: Option<PullId>,
    /// True if another node of the cluster asks, which counts it as one of its clients'.
    pub(crate) of_node: bool,
    /// True if it is a greeting of a node, one each second: neither logged nor counted where all is well.
    pub(crate) is_greeting: bool,
}

impl Exchange {
    /// A request has arrived.
    pub(crate) fn begin(
        id: RequestId,
        client: Client,
        request: &request::Parts,
        metrics: Metrics,
    ) -> Self {
        Self {
            id,
            client,
            method: request.method.clone(),
            uri: request.uri.clone(),
            user_agent: request.headers.get(header::USER_AGENT).cloned(),
            started: Instant::now(),
            metrics,
            account: Account::default(),
            span: None,
            kind: Kind::Other,
            upstream: None,
            echoes_upstream: false,
            repository: None,
            reference: None,
            digest: None,
            answer: None,
            refused: None,
            first_byte: None,
            bytes: 0,
            ended: Ended::Cancelled,
            visits: None,
            pull: None,
            of_node: false,
            is_greeting: false,
        }
    }

    /// Its client and its pull are told of there.
    pub(crate) fn visits(&mut self, visits: &Visits) {
        self.visits = Some(visits.clone());
    }

    /// The id.
    pub(crate) fn id(&self) -> RequestId {
        self.id
    }

    /// The client that asks.
    pub(crate) fn client_id(&self) -> ClientId {
        self.client.id
    }

    /// The client's address.
    pub(crate) fn source(&self) -> IpAddr {
        self.client.ip
    }

    /// The kind of thing that it asks for.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The upstream it goes to, once that is known.
    pub(crate) fn upstream(&self) -> Option<&UpstreamName> {
        self.upstream.as_ref()
    }

    /// Sets if the client named the upstream, and hears its name.
    pub(crate) fn echoes_upstream(&mut self, echoes: bool) {
        self.echoes_upstream = echoes;
    }

    /// The upstream's configured name, never the client's text, if the client hears it (dist-spec, "Registry proxying").
    pub(crate) fn echoed_upstream(&self) -> Option<&UpstreamName> {
        self.upstream().filter(|_| self.echoes_upstream)
    }

    /// The request's path was understood.
    pub(crate) fn asks_for(&mut self, kind: Kind, reference: Option<Reference>) {
        self.kind = kind;
        self.digest = match reference {
            Some(Reference::Digest(digest)) => Some(digest),
            Some(Reference::Tag(_)) | None => None,
        };
        self.reference = reference;
    }

    /// A tag was found to name this.
    pub(crate) fn found(&mut self, digest: &Digest) {
        self.digest = Some(*digest);
    }

    /// The upstream was found.
    pub(crate) fn goes_to(&mut self, upstream: &UpstreamName, repository: &Repository) {
        self.upstream = Some(upstream.clone());
        self.repository = Some(repository.clone());
        if let Some((visits, visit)) = self.visit() {
            self.pull = visits.begun(visit);
        }
    }

    fn visit(&self) -> Option<(&Visits, Visit<'_>)> {
        let (visits, upstream) = (self.visits.as_ref()?, self.upstream.as_ref()?);
        let visit = Visit {
            client: self.client.ip,
            upstream,
            repository: self.repository.as_ref()?,
        };
        Some((visits, visit))
    }

    /// Tells of the request's end.
    fn leave(&self) {
        let Some((visits, visit)) = self.visit() else {
            return;
        };
        let ended = visits::Ended {
            kind: self.kind,
            reference: self.reference.as_ref(),
            digest: self.digest.as_ref(),
            outcome: self.answer.map(|(_, outcome)| outcome),
            bytes: self.bytes,
            user_agent: self.user_agent.as_ref(),
        };
        visits.ended(visit, ended, self.pull);
    }

    /// The answer is an error. A fault of ours or of an upstream has an error line, which names what failed and why,
    /// for it is read alone; of all others the access line says why. Nothing is told twice.
    pub(crate) fn refused(&mut self, status: StatusCode, code: ErrorCode, cause: &str) {
        // Another node that asks says what came of it.
        if status.is_server_error() && !self.of_node {
            tracing::error!(
                request_id = %self.id,
                upstream = self.upstream.as_ref().map(display),
                repository = self.repository.as_ref().map(display),
                reference = self.reference.as_ref().map(display),
                status = status.as_u16(),
                code = code.as_str(),
                cause,
                "request failed"
            );
            return;
        }
        self.refused = Some(cause.to_owned());
    }

    /// The rules have denied something, or would have. `upstream`: the name of a configured one, or nothing.
    pub(crate) fn denied(&mut self, upstream: &str, denial: &Denial<'_>) {
        self.metrics.access().denied(upstream, denial.action);
        if denial.enforced {
            self.account.refuse();
        }
        self.record(&Event::Denied(*denial));
    }

    /// Credentials were checked.
    pub(crate) fn logged_in(&self, login: &Login<'_>) {
        self.record(&Event::Login(*login));
    }

    fn record(&self, event: &Event<'_>) {
        if self.account.is_audited() {
            let record = |id: &str| self.account.record(&self.client.text, id, event);
            self.id.with_text(record);
        }
    }

    /// Records a pull that has ended.
    fn record_pull(&self, status: u16, ended: &str) {
        let is_pull = matches!(self.kind, Kind::Manifest | Kind::Blob);
        let (Some(upstream), Some(repository), true) = (&self.upstream, &self.repository, is_pull)
        else {
            return;
        };
        let reference = self.reference.as_ref().map(Reference::to_string);
        let digest = self.digest.as_ref().map(Digest::to_string);
        self.record(&Event::Pull(Pull {
            method: self.method.as_str(),
            upstream: upstream.as_str(),
            repository: repository.as_str(),
            reference: reference.as_deref(),
            digest: digest.as_deref(),
            status,
            bytes: self.bytes,
            outcome: self.answer.map(|(_, outcome)| outcome.label()),
            ended,
        }));
    }

    /// The head of the response is known: the request is counted.
    pub(crate) fn answered(&mut self, status: StatusCode, outcome: Outcome) {
        self.answer = Some((status, outcome));
        if self.is_greeting {
            return;
        }
        if self.of_node {
            return self.metrics.cluster().served(self.kind, outcome);
        }
        self.metrics
            .request(self.kind, self.upstream_label(), outcome);
    }

    /// Body bytes were handed to the connection.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.first_byte();
        self.account.spent(bytes);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.of_node {
            if !self.is_greeting {
                self.metrics.cluster().served_bytes(self.kind, bytes);
            }
            return;
        }
        self.metrics
            .client_bytes(self.kind, self.upstream_label(), bytes);
    }

    /// The response was handed over as a whole.
    pub(crate) fn completed(&mut self) {
        // A response without a body has its head in place of a first byte.
        self.first_byte();
        self.ended = Ended::Complete;
    }

    /// The body broke off. The client sees a broken connection, and the log the reason.
    pub(crate) fn failed(&mut self, why: &dyn std::error::Error) {
        tracing::error!(
            request_id = %self.id,
            upstream = self.upstream.as_ref().map(display),
            repository = self.repository.as_ref().map(display),
            reference = self.reference.as_ref().map(display),
            bytes = self.bytes,
            cause = %Chain(why),
            "a body broke off"
        );
        self.ended = Ended::Failed;
    }

    fn first_byte(&mut self) {
        if self.first_byte.is_some() {
            return;
        }
        let now = Instant::now();
        self.first_byte = Some(now);
        if let Some((_, outcome)) = self.answer.filter(|_| !self.of_node) {
            let wait = now.duration_since(self.started);
            self.metrics
                .first_byte(self.kind, outcome, wait.as_secs_f64());
        }
    }

    fn upstream_label(&self) -> &str {
        self.upstream.as_ref().map_or("", UpstreamName::as_str)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let (ended, cause) = match &self.ended {
            // A panic unwinds through here; nothing else may look like a client that left.
            Ended::Cancelled if std::thread::panicking() => ("failed", Some("panic")),
            Ended::Cancelled => ("cancelled", self.refused.as_deref()),
            Ended::Complete => ("complete", self.refused.as_deref()),
            Ended::Failed => ("failed", None),
        };
        let status = self
            .answer
            .map_or(STATUS_CLIENT_CLOSED, |(status, _)| status.as_u16());
        let ttfb = self.first_byte.map(|at| at.duration_since(self.started));
        self.leave();
        if self.account.records_pulls() {
            self.record_pull(status, ended);
        }
        let is_logged =
            logging::wants_access_lines() && !(self.is_greeting && self.ended == Ended::Complete);
        if !is_logged && self.span.is_none() {
            return;
        }
        let total = self.started.elapsed();
        let user_agent = self.user_agent.as_ref().map(printable);
        let user = self.account.name();
        let user = user.as_deref();
        let line = AccessLine {
            request_id: &self.id,
            trace_id: self.span.as_ref().map(|span| span.trace_id()),
            client: &self.client.text,
            user,
            method: self.method.as_str(),
            path: shortened(self.uri.path(), PATH_LOGGED_BYTES_MAX),
            upstream: self.upstream.as_ref().map(UpstreamName::as_str),
            repository: self.repository.as_ref().map(Repository::as_str),
            reference: shown(self.reference.as_ref()),
            digest: shown(self.digest.as_ref()),
            status,
            outcome: self.answer.map(|(_, outcome)| outcome.label()),
            bytes: self.bytes,
            ttfb,
            total,
            ended,
            cause,
            user_agent,
        };
        if let Some(span) = &self.span {
            span.end(self.kind, &line);
        }
        if is_logged && !logging::access(&line) {
            log(self, &line);
        }
    }
}

/// Writes the access line through the log library.
fn log(exchange: &Exchange, line: &AccessLine<'_>) {
    tracing::info!(
        target: access::TARGET,
        request_id = %exchange.id,
        trace_id = line.trace_id.map(|id| format!("{id:032x}")),
        client = %line.client,
        user = line.user,
        method = %exchange.method,
        path = line.path,
        upstream = exchange.upstream.as_ref().map(display),
        repository = exchange.repository.as_ref().map(display),
        reference = exchange.reference.as_ref().map(display),
        digest = exchange.digest.as_ref().map(display),
        status = line.status,
        outcome = line.outcome,
        bytes = exchange.bytes,
        ttfb_ms = line.ttfb.map(milliseconds),
        total_ms = milliseconds(line.total),
        ended = line.ended,
        cause = line.cause,
        user_agent = line.user_agent,
        "request"
    );
}

/// An error and what caused it, in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Milliseconds with three places: a hit takes fractions of one.
fn milliseconds(wait: Duration) -> f64 {
    (wait.as_secs_f64() * 1e6).round() / 1e3
}

/// The header's text when it is plain, visible ASCII: anything else could forge log lines.
fn printable(value: &HeaderValue) -> &str {
    value.to_str().map_or("(not plain text)", |text| {
        shortened(text, USER_AGENT_LOGGED_BYTES_MAX)
    })
}

fn shown<T: fmt::Display>(value: Option<&T>) -> Option<&dyn fmt::Display> {
    value.map(|value| value as &dyn fmt::Display)
}

fn shortened(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
