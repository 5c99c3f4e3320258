//! Lists of hosted repositories.

use super::{Asked, HostedRequest};
use crate::hosted::{Hosted, HostedError, NameRange};
use crate::mirror::ListAnswer;
use crate::oci::link::NextPage;
use crate::oci::{Digest, Page, Repository, list, referrer};
use crate::server::registry::reply::Reply;
use crate::telemetry::Outcome;
use bytes::Bytes;

/// The parameter of a page of referrers: where it begins.
const AFTER: &str = "after";

/// Repositories that are looked at together.
const LOOKED_AT: usize = 500;

impl HostedRequest<'_> {
    pub(super) async fn tags(&self, page: &Page) -> Result<Reply, Asked> {
        let found = self
            .hosted
            .tags(self.repository, page.last.as_deref(), page.limit);
        let found = found.await?;
        let next = found.tags.last().filter(|_| found.more).map(|last| {
            NextPage::of(&Page {
                limit: page.limit.or(Some(found.tags.len())),
                last: Some(last.clone()),
                cursor: Vec::new(),
            })
        });
        let body = list::tags_body(self.path(), &found.tags);
        Ok(self.list(list::TAGS, body, next, false))
    }

    pub(super) async fn referrers(
        &self,
        digest: &Digest,
        artifact_type: Option<&str>,
        cursor: &[(String, String)],
    ) -> Result<Reply, Asked> {
        let number = |name: &str| {
            let found = cursor.iter().find(|(key, _)| key == name);
            found.and_then(|(_, value)| value.parse::<i64>().ok())
        };
        let limit = number("n").and_then(|it| usize::try_from(it).ok());
        let found =
            self.hosted
                .referrers(self.repository, digest, artifact_type, number(AFTER), limit);
        let found = found.await?;
        let next = found.next.map(|after| {
            let kept = artifact_type.map(|it| ("artifactType".to_owned(), it.to_owned()));
            let limit = limit.map(|it| ("n".to_owned(), it.to_string()));
            let after = Some((AFTER.to_owned(), after.to_string()));
            NextPage {
                query: [kept, limit, after].into_iter().flatten().collect(),
            }
        });
        let body = referrer::list(&found.entries);
        Ok(self.list(list::REFERRERS, body, next, artifact_type.is_some()))
    }

    pub(super) fn no_referrers(&self) -> Reply {
        self.list(list::REFERRERS, referrer::list(&[]), None, false)
    }

    fn list(
        &self,
        media_type: &'static str,
        body: Vec<u8>,
        next: Option<NextPage>,
        filtered: bool,
    ) -> Reply {
        let answer = ListAnswer {
            media_type,
            bytes: Bytes::from(body),
            next,
            filtered,
            outcome: Outcome::Hit,
            warnings: Vec::new(),
        };
        Reply::list(answer, self.request.path, self.request.ns())
    }
}

/// Looks into the catalogue for one page: past so many repositories that a client may not see, the list ends.
const LOOKS_MAX: usize = 100;

/// Hosted repositories after the one that a page begins behind, as many as it has, of which `sees` says that they may
/// be shown; and whether there are more. Nothing is shown of what is not in `ranges`, which is not looked at.
pub(in crate::server::registry) async fn catalog_page(
    hosted: &Hosted,
    page: &Page,
    limit: usize,
    mut ranges: Vec<NameRange>,
    sees: impl Fn(&Repository) -> bool,
) -> Result<(Vec<String>, bool), HostedError> {
    if let Some(last) = &page.last {
        ranges = NameRange::behind(ranges, last);
    }
    let mut shown = Vec::new();
    for _ in 0..LOOKS_MAX {
        let found = hosted.repositories(&ranges, LOOKED_AT).await?;
        let Some(end) = found.last() else {
            return Ok((shown, false));
        };
        ranges = NameRange::behind(ranges, end.as_str());
        for repository in found.iter().filter(|it| sees(it)) {
            if shown.len() == limit {
                return Ok((shown, true));
            }
            shown.push(repository.to_string());
        }
    }
    Ok((shown, false))
}
