//! One request to a cloud's service, and what its answer says.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use serde_json::Value;
use url::Url;

use crate::clock::{Clock, Timestamp};
use crate::net::Deadline;
use crate::net::{HttpClient, Way};
use crate::telemetry::Kind;
use crate::upstream::body::BlobBody;
use crate::upstream::{FetchError, status};

/// The parts that every request needs.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) api: &'a HttpClient,
    /// Of all requests together.
    pub(super) deadline: Deadline,
    /// Signatures and ends of validity are told by it.
    pub(super) clock: &'a dyn Clock,
}

impl Caller<'_> {
    /// The time now.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Sends a request; only 200 is a success. Redirects are not followed: no service used here needs
    /// them, and keys must not wander.
    ///
    /// # Errors
    /// [`FetchError::Login`] with the service, its host, and what went wrong; [`FetchError::Timeout`]
    /// when the deadline has passed.
    pub(super) async fn send(&self, call: Call) -> Result<Answer, FetchError> {
        self.send_within(call, self.deadline).await
    }

    /// Sends a request for what a metadata service knows itself, and answers at once or not at all.
    /// (Google's and Azure's fetch tokens from elsewhere, and may take seconds.)
    ///
    /// # Errors
    /// As [`Caller::send`].
    pub(super) async fn send_quickly(&self, call: Call) -> Result<Answer, FetchError> {
        let deadline = self.deadline.at_most(METADATA_TIMEOUT);
        self.send_within(call, deadline).await
    }

    async fn send_within(&self, call: Call, deadline: Deadline) -> Result<Answer, FetchError> {
        let name = call.name();
        let sent = self.exchange(call, deadline).await;
        sent.map_err(|error| self.told_by(&name, error))?
            .map(|body| Answer {
                service: name.clone(),
                body,
            })
            .map_err(|why| FetchError::Login(format!("{name}: {why}")))
    }

    /// The body of a success, or in words what the service answered instead.
    async fn exchange(
        &self,
        call: Call,
        deadline: Deadline,
    ) -> Result<Result<Bytes, String>, FetchError> {
        let request = match call.request() {
            Ok(request) => request,
            Err(why) => return Ok(Err(why)),
        };
        let response = self
            .api
            .send(Kind::Other, request, deadline, Way::Lane(0))
            .await?;
        if response.status() != StatusCode::OK {
            let code = response.status().as_u16();
            let body = status::drain(self.api, response, deadline).await;
            return Ok(Err(match error_code(&body) {
                Some(word) => format!("status {code} {word}"),
                None => format!("status {code}"),
            }));
        }
        status::check_encoding(response.headers())?;
        let body = BlobBody::new(self.api, response, BODY_IDLE_TIMEOUT);
        body.whole("the answer", BODY_BYTES_MAX, deadline)
            .await
            .map(Ok)
    }

    /// Names the service in an error. A time-out stays one only when it is the caller's own time that
    /// ran out: a service that is silent is a failure that everyone who waits may share.
    fn told_by(&self, name: &str, error: FetchError) -> FetchError {
        if matches!(error, FetchError::Timeout(_)) && self.deadline.passed() {
            return error;
        }
        FetchError::Login(format!("{name}: {error}"))
    }
}

/// A request in the making.
pub(super) struct Call {
    /// As users know it: `AWS STS`.
    service: &'static str,
    method: Method,
    url: Url,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Call {
    /// A request without a body.
    pub(super) fn new(service: &'static str, method: Method, url: Url) -> Self {
        Self {
            service,
            method,
            url,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// A POST.
    pub(super) fn post(service: &'static str, url: Url, content_type: &str, body: String) -> Self {
        Self {
            body: Bytes::from(body),
            ..Self::new(service, Method::POST, url)
        }
        .with(CONTENT_TYPE.as_str(), content_type)
    }

    /// A POST of a form.
    pub(super) fn form(service: &'static str, url: Url, pairs: &[(&str, &str)]) -> Self {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(pairs);
        Self::post(
            service,
            url,
            "application/x-www-form-urlencoded",
            form.finish(),
        )
    }

    /// With a header. It is marked sensitive: most of them are.
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn request(self) -> Result<Request<Full<Bytes>>, String> {
        let wrong = |what: &str| format!("{what} cannot be sent");
        let uri = Uri::try_from(self.url.as_str()).map_err(|_| wrong("its address"))?;
        let mut headers = HeaderMap::new();
        for (name, text) in &self.headers {
            let mut value = HeaderValue::try_from(text).map_err(|_| wrong(name))?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
        let mut request = Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// The service and its host, for errors.
    fn name(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        format!("{} {host}", self.service)
    }
}

/// The body of a success. It holds keys and passwords: neither it nor what is read from it is printed.
pub(super) struct Answer {
    /// The service and its host.
    service: String,
    body: Bytes,
}

impl Answer {
    /// The answer as JSON.
    ///
    /// # Errors
    /// [`FetchError::Login`].
    pub(super) fn json(self) -> Result<Json, FetchError> {
        match serde_json::from_slice(&self.body) {
            Ok(value) => Ok(Json {
                service: self.service,
                value,
            }),
            Err(_) => Err(self.wrong("the answer is not JSON")),
        }
    }

    /// The answer as one word: a token or a name, printable and not long.
    ///
    /// # Errors
    /// [`FetchError::Login`].
    pub(super) fn word(&self) -> Result<&str, FetchError> {
        let text = std::str::from_utf8(&self.body).unwrap_or_default().trim();
        let fits = (1..=WORD_BYTES_MAX).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(text)
        } else {
            Err(self.wrong("the answer is not one word"))
        }
    }

    /// The text of the first XML element of this name that holds text alone.
    ///
    /// # Errors
    /// [`FetchError::Login`].
    pub(super) fn element(&self, name: &str) -> Result<String, FetchError> {
        xml_element(&self.body, name)
            .ok_or_else(|| self.wrong(&format!("the answer holds no {name}")))
    }

    fn wrong(&self, why: &str) -> FetchError {
        FetchError::Login(format!("{}: {why}", self.service))
    }
}

/// An answer that is JSON.
pub(super) struct Json {
    service: String,
    value: Value,
}

impl Json {
    /// The value at a JSON pointer (RFC 6901).
    pub(super) fn at(&self, pointer: &str) -> Option<&Value> {
        self.value.pointer(pointer)
    }

    /// The text at a JSON pointer.
    ///
    /// # Errors
    /// [`FetchError::Login`] when it is missing or empty.
    pub(super) fn text(&self, pointer: &str) -> Result<&str, FetchError> {
        self.at(pointer)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .ok_or_else(|| self.missing(pointer))
    }

    /// Life of a password whose end, in seconds or milliseconds since the Unix epoch, is
    /// at a JSON pointer.
    ///
    /// # Errors
    /// [`FetchError::Login`] when it is missing or has passed.
    pub(super) fn life_until(
        &self,
        pointer: &str,
        unit: Unit,
        now: Timestamp,
    ) -> Result<Duration, FetchError> {
        let number = self
            .at(pointer)
            .and_then(Value::as_f64)
            .ok_or_else(|| self.missing(pointer))?;
        let seconds = match unit {
            Unit::Seconds => number,
            Unit::Milliseconds => number / 1000.0,
        };
        // Fails for what is negative, not finite, or too large.
        let end = Duration::try_from_secs_f64(seconds).map_err(|_| self.missing(pointer))?;
        let left = Timestamp(0).plus(end).since(now);
        self.check_life(left)
    }

    /// Life of a password that is given in seconds, as a number or text, at a JSON pointer.
    ///
    /// # Errors
    /// [`FetchError::Login`] when it is missing or zero.
    pub(super) fn life(&self, pointer: &str) -> Result<Duration, FetchError> {
        let value = self.at(pointer);
        let seconds = value.and_then(|value| {
            value
                .as_u64()
                .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
        });
        let seconds = seconds.ok_or_else(|| self.missing(pointer))?;
        self.check_life(Duration::from_secs(seconds))
    }

    fn check_life(&self, left: Duration) -> Result<Duration, FetchError> {
        if left.is_zero() {
            return Err(self.wrong("what it gave has expired already (or the clock is wrong)"));
        }
        Ok(left.min(LIFE_MAX))
    }

    /// That the answer, although it is a success of HTTP's, reports a failure.
    pub(super) fn failed(&self) -> FetchError {
        match error_code_of(&self.value) {
            Some(code) => self.wrong(&format!("refused with {code}")),
            None => self.wrong("refused"),
        }
    }

    /// [`FetchError::Login`] naming the service.
    pub(super) fn wrong(&self, why: &str) -> FetchError {
        FetchError::Login(format!("{}: {why}", self.service))
    }

    fn missing(&self, pointer: &str) -> FetchError {
        self.wrong(&format!(
            "the answer holds no {}",
            pointer.trim_start_matches('/')
        ))
    }
}

/// The unit of a number of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
}

/// A service's URL: `base`, or else the usual one, with this path and no query.
///
/// # Errors
/// [`FetchError::Login`] when the usual one is none, as with a wrong region.
pub(super) fn service_url(base: Option<&Url>, usual: &str, path: &str) -> Result<Url, FetchError> {
    let mut url = match base {
        Some(url) => url.clone(),
        None => Url::parse(usual)
            .map_err(|_| FetchError::Login("the service's address is no URL".to_owned()))?,
    };
    url.set_path(path);
    url.set_query(None);
    Ok(url)
}

/// `Host` as it is sent: with the port, if it is not the scheme's own.
pub(super) fn host_header(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// The code in a service's error: each has its own form, and each form is looked for in all, because
/// gateways before a service answer in forms of their own.
fn error_code(body: &[u8]) -> Option<String> {
    match serde_json::from_slice(body) {
        Ok(value) => error_code_of(&value),
        Err(_) => xml_element(body, "Code").and_then(|code| sane_code(&code)),
    }
}

fn error_code_of(value: &Value) -> Option<String> {
    ERROR_CODES
        .iter()
        .filter_map(|pointer| value.pointer(pointer)?.as_str())
        .find_map(sane_code)
}

/// A code fit for a log line. AWS puts a name space before it (`com.amazonaws…#`), and sometimes a
/// URL after it.
fn sane_code(code: &str) -> Option<String> {
    let code = code.rsplit('#').next().unwrap_or(code);
    let code = code.split(':').next().unwrap_or(code);
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let fits = (1..=ERROR_CODE_BYTES_MAX).contains(&code.len());
    (fits && code.bytes().all(sane)).then(|| code.to_owned())
}

/// The text of the first element of this name that has neither attributes nor children. The few
/// elements that are asked for are always so written, and hold no text that needs more than the five
/// entities.
fn xml_element(body: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, end) = rest.split_once('<')?;
    if !end.starts_with(&format!("/{name}>")) {
        return None;
    }
    let inner = inner.trim();
    // `&amp;` last: what it gives must not be read again.
    let plain = inner
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&");
    (!plain.is_empty()).then_some(plain)
}

/// Places where services put the code of an error: AWS; registries; Tencent; Alibaba (RPC, then ROA); `OAuth2`;
/// Google.
const ERROR_CODES: &[&str] = &[
    "/__type",
    "/errors/0/code",
    "/Response/Error/Code",
    "/Code",
    "/code",
    "/error",
    "/error/status",
];
/// The longest codes of these services have some 60 characters.
const ERROR_CODE_BYTES_MAX: usize = 80;
/// ECR's tokens have 4 KiB, Azure's with many groups up to 20.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// A token of a metadata service has some 60 characters, a role's name at most 64.
const WORD_BYTES_MAX: usize = 1024;
/// The deadline bounds it anyhow; this ends a stuck answer before that.
const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A metadata service is next to the machine. Where answers to it are lost on the way, as in a container
/// that is one hop too far away, the whole time of a request would be spent on it.
const METADATA_TIMEOUT: Duration = Duration::from_secs(3);
/// A longer life is cut to this. ECR's 12 hours are the longest here.
const LIFE_MAX: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        Json {
            service: "X x.example".to_owned(),
            value: serde_json::from_str(text).unwrap(),
        }
    }

    #[test]
    fn every_services_error_code_is_found() {
        let cases = [
            (
                r#"{"__type":"com.amazon.coral.service#AccessDeniedException","message":"no"}"#,
                Some("AccessDeniedException"),
            ),
            (
                r#"{"__type":"ExpiredTokenException:http://x.example/y"}"#,
                Some("ExpiredTokenException"),
            ),
            (
                "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code></Error></ErrorResponse>",
                Some("AccessDenied"),
            ),
            (
                r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#,
                Some("UNAUTHORIZED"),
            ),
            (
                r#"{"Response":{"Error":{"Code":"AuthFailure.SignatureFailure"}}}"#,
                Some("AuthFailure.SignatureFailure"),
            ),
            (
                r#"{"Code":"InvalidAccessKeyId.NotFound"}"#,
                Some("InvalidAccessKeyId.NotFound"),
            ),
            (
                r#"{"error":"invalid_grant","error_description":"x"}"#,
                Some("invalid_grant"),
            ),
            (
                r#"{"error":{"code":403,"status":"PERMISSION_DENIED"}}"#,
                Some("PERMISSION_DENIED"),
            ),
            (r#"{"code":"two words"}"#, None),
            (r#"{"code":"line\nbreak"}"#, None),
            ("<html>", None),
            ("", None),
        ];
        for (body, code) in cases {
            assert_eq!(error_code(body.as_bytes()).as_deref(), code, "{body}");
        }
        let long = format!(r#"{{"code":"{}"}}"#, "a".repeat(ERROR_CODE_BYTES_MAX + 1));
        assert_eq!(error_code(long.as_bytes()), None);
    }

    #[test]
    fn an_element_is_read_only_when_it_is_plain_text() {
        let element = |body: &str| xml_element(body.as_bytes(), "A");
        assert_eq!(
            element("<B><A> x&amp;lt; </A></B>").as_deref(),
            Some("x&lt;")
        );
        for other in [
            "<A></A>",
            "<A>x",
            "<A><B>x</B></A>",
            "<AB>x</AB>",
            "<A>x</B>",
            "",
        ] {
            assert_eq!(element(other), None, "{other}");
        }
    }

    #[test]
    fn the_end_of_a_life_is_read_in_both_units() {
        let now = Timestamp(1_000_000);
        let answer =
            json(r#"{"s":1060.5,"ms":1060500,"past":999,"far":1e300,"wrong":"x","neg":-1}"#);
        let life = |pointer, unit| answer.life_until(pointer, unit, now);
        let expected = Ok(Duration::from_millis(60_500));
        assert_eq!(life("/s", Unit::Seconds), expected);
        assert_eq!(life("/ms", Unit::Milliseconds), expected);
        for wrong in ["/past", "/far", "/wrong", "/neg", "/none"] {
            assert!(life(wrong, Unit::Seconds).is_err(), "{wrong}");
        }
        // Milliseconds taken for seconds would be a password that is never asked for again.
        assert_eq!(life("/ms", Unit::Seconds), Ok(LIFE_MAX));
    }

    #[test]
    fn a_life_is_a_number_or_text() {
        let answer = json(r#"{"a":60,"b":"60","c":0,"d":"x"}"#);
        assert_eq!(answer.life("/a"), Ok(Duration::from_mins(1)));
        assert_eq!(answer.life("/b"), Ok(Duration::from_mins(1)));
        assert!(answer.life("/c").is_err() && answer.life("/d").is_err());
    }

    #[test]
    fn the_host_is_written_as_it_is_sent() {
        let host = |url: &str| host_header(&Url::parse(url).unwrap());
        assert_eq!(host("https://a.example:443/"), "a.example");
        assert_eq!(host("http://127.0.0.1:8080/x"), "127.0.0.1:8080");
    }
}
