//! How the fake registry behaves: its manner (options), its faults (rules),
//! and gates by which a test lets bytes through.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use tokio::sync::Semaphore;

use super::fake_log::{Kind, Record};

/// Who may pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Everybody.
    #[default]
    Open,
    /// Whoever sends this user name and password with each request.
    Basic { username: String, password: String },
    /// Whoever has a token; the token server wants these credentials, if any.
    Token {
        credentials: Option<(String, String)>,
        /// Seconds; left out of the answer when `None`.
        expires_in: Option<u64>,
        /// The token server; this registry's own `/token` when `None`.
        realm: Option<String>,
        /// `token` or `access_token`.
        field: &'static str,
    },
}

impl Auth {
    /// A token for everybody.
    pub fn anonymous_token() -> Self {
        Self::Token {
            credentials: None,
            expires_in: Some(300),
            realm: None,
            field: "token",
        }
    }

    /// A token for this user alone.
    pub fn token_for(username: &str, password: &str) -> Self {
        Self::Token {
            credentials: Some((username.to_owned(), password.to_owned())),
            expires_in: Some(300),
            realm: None,
            field: "token",
        }
    }

    /// HTTP Basic for this user alone.
    pub fn basic(username: &str, password: &str) -> Self {
        Self::Basic {
            username: username.to_owned(),
            password: password.to_owned(),
        }
    }
}

/// How `Link` of a tag list is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkForm {
    #[default]
    Relative,
    Absolute,
}

/// The registry's manner.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent habits that real registries have or lack"
)]
pub struct Options {
    pub auth: Auth,
    /// Repositories that everybody may pull, whatever `auth` says.
    pub public: Vec<&'static str>,
    /// Blobs are ranged when asked for.
    pub ranges: bool,
    /// Bodies of blobs and manifests have a Content-Length; else they are chunked.
    pub content_length: bool,
    /// `Docker-Content-Digest` is sent.
    pub digest_header: bool,
    /// HEAD of a manifest works; else 405.
    pub head: bool,
    /// The referrers API exists; else 404.
    pub referrers: bool,
    /// `artifactType` is honoured, and `OCI-Filters-Applied` said.
    pub filters: bool,
    pub link: LinkForm,
    /// Entries of a page of tags or repositories, at most.
    pub page_max: usize,
    /// Blobs are redirected to `<this>/cdn/<digest>`; empty: to this very server, relatively.
    pub redirect_blobs: Option<String>,
    /// Manifests are redirected to the same path under this base URL.
    pub redirect_manifests: Option<String>,
    /// `ETag` of blobs. An `If-Range` that names another makes the Range void.
    pub etag: Option<String>,
    /// A request without one of these headers, or with another value where one is given, is
    /// answered 400.
    pub required_headers: Vec<(&'static str, Option<String>)>,
    /// A request with `Authorization` is answered 400, as S3 does with its signed URLs.
    pub refuse_authorization: bool,
    /// Body bytes in one piece.
    pub chunk_bytes: usize,
    /// Headers added to every answer.
    pub extra_headers: Vec<(&'static str, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            auth: Auth::Open,
            public: Vec::new(),
            ranges: true,
            content_length: true,
            digest_header: true,
            head: true,
            referrers: true,
            filters: true,
            link: LinkForm::Relative,
            page_max: usize::MAX,
            redirect_blobs: None,
            redirect_manifests: None,
            etag: None,
            required_headers: Vec::new(),
            refuse_authorization: false,
            chunk_bytes: 64 * 1024,
            extra_headers: Vec::new(),
        }
    }
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, with the spec's error envelope.
    Status(u16),
    /// 429 with `Retry-After` in seconds.
    RateLimited(u64),
    /// 200 with something else than the content.
    Instead {
        content_type: &'static str,
        body: &'static str,
    },
    /// No answer, ever.
    Hang,
    /// The answer waits for a permit (and gives it back: one permit lets all through).
    Wait(Arc<Semaphore>),
    /// The connection is dropped when it comes to this offset of the content; one whose range
    /// begins behind it or ends before it is not.
    Cut(usize),
    /// The same, but nothing is dropped: there are no more bytes, and no end.
    Stall(usize),
    /// A Range is answered with 200 and the whole content.
    IgnoreRange,
    /// A Range is answered with the Content-Range asked for, but the content's first bytes.
    LieRange,
    /// A Range is answered with another, a byte beside it: Content-Range and bytes agree.
    OtherRange,
    /// A Range is answered with at most this many bytes of it, with a true Content-Range.
    RangeLimit(usize),
    /// Whatever a test wants to say instead.
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// The byte at this offset is another.
    Flip(usize),
    /// The content, with a matching Content-Length, is cut to this many bytes.
    Short(usize),
    /// So many zero bytes are added, with a matching Content-Length.
    Long(usize),
}

/// Which bytes a request must ask for, that a rule meets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// Any.
    #[default]
    Anything,
    /// All: there is no Range.
    Whole,
    /// There is a Range.
    Range,
    /// They begin at this offset. Without a Range they begin at 0.
    From(usize),
    /// They contain the one at this offset.
    Containing(usize),
    /// They are more than this many, or all.
    MoreThan(usize),
}

impl Asked {
    fn fits(self, record: &Record) -> bool {
        let range = record.range();
        let (start, end) = range.unwrap_or((0, None));
        match self {
            Self::Anything => true,
            Self::Whole => range.is_none(),
            Self::Range => range.is_some(),
            Self::From(offset) => start == offset,
            Self::Containing(offset) => start <= offset && end.is_none_or(|end| offset < end),
            Self::MoreThan(bytes) => end.is_none_or(|end| end - start > bytes),
        }
    }
}

/// Which requests a fault meets, and how often.
#[derive(Clone, Debug)]
pub struct Rule {
    pub kind: Kind,
    pub method: Option<Method>,
    pub repository: Option<String>,
    pub reference: Option<String>,
    pub asked: Asked,
    pub times: usize,
}

impl Rule {
    /// Every request of this kind.
    pub fn all(kind: Kind) -> Self {
        Self {
            kind,
            method: None,
            repository: None,
            reference: None,
            asked: Asked::Anything,
            times: usize::MAX,
        }
    }

    /// GETs of a kind.
    pub fn gets(kind: Kind) -> Self {
        Self {
            method: Some(Method::GET),
            ..Self::all(kind)
        }
    }

    /// HEADs of a kind.
    pub fn heads(kind: Kind) -> Self {
        Self {
            method: Some(Method::HEAD),
            ..Self::all(kind)
        }
    }

    /// Only this tag or digest.
    pub fn of(self, reference: &str) -> Self {
        Self {
            reference: Some(reference.to_owned()),
            ..self
        }
    }

    /// Only in this repository.
    pub fn in_repository(self, repository: &str) -> Self {
        Self {
            repository: Some(repository.to_owned()),
            ..self
        }
    }

    /// Only the next `times` requests.
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// Only requests for these bytes.
    pub fn asking(self, asked: Asked) -> Self {
        Self { asked, ..self }
    }

    /// Only requests with a Range.
    pub fn ranged(self) -> Self {
        self.asking(Asked::Range)
    }

    /// Only requests without a Range.
    pub fn whole(self) -> Self {
        self.asking(Asked::Whole)
    }

    /// Only requests for bytes from this offset on.
    pub fn starting_at(self, offset: usize) -> Self {
        self.asking(Asked::From(offset))
    }

    /// Only requests for bytes among which is the one at this offset.
    pub fn containing(self, offset: usize) -> Self {
        self.asking(Asked::Containing(offset))
    }

    /// Whether this rule meets the request; a hit is counted.
    pub fn meets(&mut self, record: &Record) -> bool {
        let wants_method = |wanted: &Method| *wanted == record.method;
        let wants_reference = |wanted: &String| *wanted == record.reference;
        let wants_repository = |wanted: &String| *wanted == record.repository;
        let met = self.times > 0
            && self.kind == record.kind
            && self.method.as_ref().is_none_or(wants_method)
            && self.repository.as_ref().is_none_or(wants_repository)
            && self.reference.as_ref().is_none_or(wants_reference)
            && self.asked.fits(record);
        if met && self.times != usize::MAX {
            self.times -= 1;
        }
        met
    }
}

/// Lets bytes of one content through, as many as the test says.
#[derive(Clone, Debug)]
pub struct Gate(pub Arc<Semaphore>);

impl Gate {
    /// A gate through which nothing passes yet.
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets `bytes` more bytes through (over all transfers of this content together).
    pub fn release(&self, bytes: usize) {
        self.0.add_permits(bytes);
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.0.add_permits(1 << 50);
    }

    /// Waits for `bytes` to be let through.
    pub async fn pass(&self, bytes: usize) {
        let permits = u32::try_from(bytes).unwrap();
        self.0.acquire_many(permits).await.unwrap().forget();
    }
}

/// What stands in for the content in an `Instead` fault.
pub fn instead(body: &'static str) -> Bytes {
    Bytes::from_static(body.as_bytes())
}
