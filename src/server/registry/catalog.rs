//! The list of repositories: those that are cached, and those that are hosted, as far as the client may pull from them.

use super::arrival::Caller;
use super::door::Visitor;
use super::handler::Handler;
use super::hosted::{catalog_page, ranges, sees};
use super::reply::Reply;
use crate::mirror::Source;
use crate::oci::link::NextPage;
use crate::oci::{Page, Repository};
use crate::server::http::JSON;
use crate::server::http::context::Request;
use crate::server::http::error::ApiError;
use bytes::Bytes;

/// Entries on a page, whatever the client asks for.
const PAGE_MAX: usize = 1000;

impl Handler {
    /// The repositories that the client may pull from.
    pub(super) async fn catalog(
        &self,
        page: &Page,
        request: &Request<'_>,
        visitor: Option<Visitor<'_>>,
        caller: &Caller<'_>,
    ) -> Result<Reply, ApiError> {
        let (repositories, next) = self.listed(page, request, visitor.as_ref(), caller).await?;
        // As distribution answers (docs/spec/api.md, "Listing Repositories").
        let body = serde_json::json!({ "repositories": repositories }).to_string();
        let mut reply = Reply::own(JSON, Bytes::from(body));
        if let Some(next) = next {
            reply.link(next, request.path, request.ns());
        }
        Ok(reply)
    }

    /// One page of the repositories that the client may pull from, and the next one.
    pub(super) async fn listed(
        &self,
        page: &Page,
        request: &Request<'_>,
        visitor: Option<&Visitor<'_>>,
        caller: &Caller<'_>,
    ) -> Result<(Vec<String>, Option<NextPage>), ApiError> {
        let is_known = visitor.is_some_and(|it| !it.who.is_anonymous());
        let is_shown = self.mirror().visibility().may_be_listed(is_known);
        let sees_mirrored = |source: &Source| {
            let allows = visitor.is_none_or(|it| it.sees(source));
            allows && is_shown(source)
        };
        let Some(hosted) = self.hosted() else {
            return Ok(self.mirror().lists().catalog(page, &sees_mirrored).await);
        };
        let limit = page.limit.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let is_own = request
            .host
            .is_some_and(|host| hosted.names().is_host(host));
        let (mut all, more) = if is_own {
            (Vec::new(), None)
        } else {
            self.mirror().lists().catalog(page, &sees_mirrored).await
        };
        let sees_hosted = |it: &Repository| sees(hosted, visitor, caller, request, it);
        let ranges = ranges(hosted, visitor, caller, request);
        let own = catalog_page(hosted, page, limit, ranges, sees_hosted);
        let (mut own, more_own) = own.await?;
        // Behind the last that one of them has shown the other may have some that are not known yet.
        if let (Some(last), true) = (all.last(), more.is_some()) {
            own.retain(|it| it <= last);
        }
        if let (Some(last), true) = (own.last(), more_own) {
            all.retain(|it| it <= last);
        }
        all.append(&mut own);
        all.sort_unstable();
        let is_more = more.is_some() || more_own || all.len() > limit;
        all.truncate(limit);
        let next = all.last().filter(|_| is_more).map(|last| {
            NextPage::of(&Page {
                limit: Some(limit),
                last: Some(last.clone()),
                ..Page::default()
            })
        });
        Ok((all, next))
    }
}
