//! A registry that runs, by its API.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use crate::commands::client::tls_advice;
use crate::commands::warm::server::{accept_class, waits};
use crate::oci::link::NextPage;
use crate::oci::{AcceptClass, Algorithm, Digest, Reference, Repository, Tag, list, referrer};
use crate::telemetry::Metrics;
use crate::upstream::{
    BlobBody, EndpointConfig, FetchError, ListFetch, LoginConfig, Puller, Secret, Text,
};

/// Pages of one list: of a registry that answers with a next one for ever some are enough.
const PAGES_MAX: usize = 100_000;

/// Entries of a list, of all its pages: some 100 MB. A registry that lists more is not read to the end.
const ENTRIES_MAX: usize = 1_000_000;

/// Repeats of a request that may go well then.
const RETRIES: usize = 5;

/// Time for an answer, and for more of a body.
const PATIENCE: Duration = Duration::from_mins(1);

/// Entries that are asked for at once.
const PAGE: &str = "1000";

/// The access to a registry.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Login {
    /// The user name at the registry that is copied
    #[arg(long, value_name = "NAME", requires = "password_file")]
    username: Option<String>,
    /// The file that the password is in
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// A `config.json` of Docker's, which may have a login for it
    #[arg(long, value_name = "FILE", conflicts_with = "username")]
    docker_config: Option<PathBuf>,
    /// CA certificates (PEM) to verify its certificate, besides the system's
    #[arg(long, value_name = "FILE")]
    from_ca_file: Option<PathBuf>,
    /// Accept any certificate from it
    #[arg(long)]
    from_insecure: bool,
}

/// A registry that runs.
#[derive(Debug)]
pub(super) struct Remote {
    puller: Puller,
    url: Url,
    accept: AcceptClass,
    /// It said that it has no list of referrers.
    has_no_referrers: AtomicBool,
}

impl Login {
    fn config(&self) -> Option<LoginConfig> {
        let password = self.username.clone().zip(self.password_file.clone());
        let password = password.map(|(username, file)| LoginConfig::Password {
            username: Text::Literal(Secret::new(username)),
            password: Text::File(file),
        });
        password.or_else(|| self.docker_config.clone().map(LoginConfig::DockerConfig))
    }
}

impl Remote {
    /// A client of the registry at this URL. Dials nothing.
    ///
    /// # Errors
    /// One line.
    pub(super) fn new(url: &Url, login: &Login) -> Result<Self, String> {
        let mut endpoint = EndpointConfig::at(url.clone());
        endpoint.ca_file.clone_from(&login.from_ca_file);
        endpoint.insecure_skip_verify = login.from_insecure;
        // The counts of this one are read by nobody.
        let metrics = Metrics::new(std::iter::empty());
        let puller = Puller::new(endpoint, login.config().as_ref(), None, PATIENCE, metrics)?;
        Ok(Self {
            puller,
            url: url.clone(),
            accept: accept_class(),
            has_no_referrers: AtomicBool::new(false),
        })
    }

    /// All repositories that it lists, as it names them.
    ///
    /// # Errors
    /// One line.
    pub(super) async fn repositories(&self) -> Result<Vec<String>, String> {
        #[derive(Deserialize)]
        struct Catalog {
            #[serde(default)]
            repositories: Option<Vec<String>>,
        }
        let asked = self.pages(
            async |query| self.puller.catalog(query).await,
            |bytes| {
                let page: Catalog =
                    serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
                Ok(page.repositories.unwrap_or_default())
            },
        );
        asked.await.map_err(|error| match error {
            Unlisted::Fetch(error) => {
                let why = error.to_string();
                let advice = tls_advice(&why, "--from-ca-file", "--from");
                format!("{}: the list of repositories: {why}{advice}", self.url)
            }
            Unlisted::Other(why) => format!("{}: the list of repositories: {why}", self.url),
        })
    }

    /// The tags of a repository, in its order.
    ///
    /// # Errors
    /// One line.
    pub(super) async fn tags(&self, repository: &Repository) -> Result<Vec<Tag>, String> {
        let asked = self.pages(
            async |query| self.puller.tags(repository, query).await,
            |bytes| {
                list::tags(bytes).map_err(|error| error.to_string())?;
                Ok(list::fit_tags(bytes))
            },
        );
        let tags = match asked.await {
            Ok(tags) => tags,
            // One whose last tag was deleted.
            Err(Unlisted::Fetch(error)) if error.is_absence() => Vec::new(),
            Err(error) => return Err(error.to_string()),
        };
        Ok(tags.iter().filter_map(|it| Tag::parse(it).ok()).collect())
    }

    /// The manifests that refer to one. A registry without such a list has none that its tags do not name.
    ///
    /// # Errors
    /// One line.
    pub(super) async fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<Vec<Digest>, String> {
        if self.lists_no_referrers() {
            return Ok(Vec::new());
        }
        let asked = self.pages(
            async |query| self.puller.referrers(repository, subject, query).await,
            |bytes| {
                list::referrers(bytes, None).map_err(|error| error.to_string())?;
                Ok(referrer::entries(bytes))
            },
        );
        match asked.await {
            Ok(entries) => Ok(entries.into_iter().map(|it| it.digest).collect()),
            // Registries that have it never say so (dist-spec, "Listing Referrers").
            Err(Unlisted::Fetch(
                FetchError::NotFound { .. } | FetchError::Status(400 | 404 | 405 | 501),
            )) => {
                self.has_no_referrers.store(true, Ordering::Relaxed);
                Ok(Vec::new())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// True if it has said that it has no list of referrers.
    pub(super) fn lists_no_referrers(&self) -> bool {
        self.has_no_referrers.load(Ordering::Relaxed)
    }

    /// A manifest, its digest computed, and its type; `None`: there is none.
    ///
    /// # Errors
    /// One line.
    pub(super) async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<(Digest, Vec<u8>, Option<String>)>, String> {
        let asked = self.repeated(async || {
            let asked = self.puller.manifest(repository, reference, self.accept);
            asked.await
        });
        let pulled = match asked.await {
            Ok(pulled) => pulled,
            Err(error) if error.is_absence() => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let wanted = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => pulled.digest_header,
        };
        let algorithm = wanted.map_or(Algorithm::Sha256, |it| it.algorithm());
        let digest = Digest::of(algorithm, &pulled.bytes);
        if wanted.is_some_and(|wanted| wanted != digest) {
            return Err(format!("the bytes have the digest {digest}"));
        }
        Ok(Some((digest, pulled.bytes.to_vec(), pulled.content_type)))
    }

    /// A blob as it comes; `None`: there is none.
    ///
    /// # Errors
    /// One line.
    pub(super) async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<BlobBody>, String> {
        let asked = self.repeated(async || Box::pin(self.puller.blob(repository, digest)).await);
        match asked.await {
            Ok(body) => Ok(Some(body)),
            Err(error) if error.is_absence() => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn pages<T>(
        &self,
        ask: impl AsyncFn(&[(String, String)]) -> Result<ListFetch, FetchError>,
        read: impl Fn(&[u8]) -> Result<Vec<T>, String>,
    ) -> Result<Vec<T>, Unlisted> {
        let mut all = Vec::new();
        let mut query = vec![("n".to_owned(), PAGE.to_owned())];
        for _ in 0..PAGES_MAX {
            let page = self.repeated(async || ask(&query).await).await?;
            all.extend(read(&page.bytes).map_err(Unlisted::Other)?);
            if all.len() > ENTRIES_MAX {
                return Err(Unlisted::Other(format!("more than {ENTRIES_MAX} entries")));
            }
            match page.next {
                Some(NextPage { query: next }) if next != query => query = next,
                Some(_) => return Err(Unlisted::Other("a page names itself as next".to_owned())),
                None => return Ok(all),
            }
        }
        Err(Unlisted::Other(format!("more than {PAGES_MAX} pages")))
    }

    async fn repeated<T>(
        &self,
        ask: impl AsyncFn() -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let mut waits = waits(RETRIES);
        loop {
            let error = match ask().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let asked = match &error {
                FetchError::RateLimited { retry_after } => retry_after.unwrap_or_default(),
                FetchError::Unavailable { retry_after } => *retry_after,
                FetchError::Status(408 | 429 | 500..) => Duration::ZERO,
                FetchError::Connect(_) | FetchError::Timeout(_) | FetchError::Broken(_) => {
                    Duration::ZERO
                }
                FetchError::NotFound { .. }
                | FetchError::Unauthorized
                | FetchError::Challenged(_)
                | FetchError::Denied
                | FetchError::RangeNotSatisfiable
                | FetchError::Status(_)
                | FetchError::TooLarge { .. }
                | FetchError::Protocol(_)
                | FetchError::Loop(_)
                | FetchError::Inside(_)
                | FetchError::Ourselves(_)
                | FetchError::Login(_)
                | FetchError::LoginRefused(_)
                | FetchError::Busy
                | FetchError::Limited
                | FetchError::Token(_) => return Err(error),
            };
            let wait = waits.next().filter(|_| asked <= PATIENCE);
            let Some(wait) = wait else { return Err(error) };
            tokio::time::sleep(wait.max(asked)).await;
        }
    }
}

/// The reason that there is no list.
#[derive(Debug, thiserror::Error)]
enum Unlisted {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{0}")]
    Other(String),
}
