//! `/api/v1/repositories`, `/api/v1/namespaces/restore`, `/api/v1/deleted` and `/api/v1/expire`: what goes as a whole or by a
//! rule, and what comes back.

use super::{Answer, HostedChange, OPERATOR, json, told};
use crate::audit::Change;
use crate::hosted::{DeletedRow, Hosted, Planned};
use crate::mirror::inspect::When;
use crate::oci::Repository;
use crate::server::admin::error::AdminError;
use crate::server::admin::query::Query;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// A repository or namespace that was deleted and can be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedInfo {
    /// `repository` or `namespace`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// When it was deleted.
    pub deleted: When,
    /// Until when it can be restored.
    pub until: When,
}

/// All that can be restored as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedList {
    /// They.
    pub deleted: Vec<DeletedInfo>,
}

/// A tag that goes by a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiringTag {
    /// The repository.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// The manifest that it names.
    pub digest: String,
    /// When it was pushed last.
    pub pushed: When,
    /// The rule.
    pub rule: String,
}

/// The next run of the rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryPlan {
    /// When it is.
    pub at: When,
    /// No run is before this, since the clock has leapt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_until: Option<When>,
    /// Tags that it takes, if nothing is pushed or deleted until then.
    pub tags: Vec<ExpiringTag>,
    /// There are more, for later runs.
    pub more: bool,
}

/// The outcome of a run of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    /// Tags that have gone.
    pub expired: usize,
}

/// A repository, as a parameter names it.
pub(super) fn repository(query: &mut Query) -> Result<Repository, AdminError> {
    let name = query.need("repository")?;
    Repository::parse(&name).map_err(|error| AdminError::bad(format!("repository: {error}")))
}

/// Deletes a repository.
pub(super) async fn repositories(
    hosted: &Hosted,
    method: &Method,
    mut query: Query,
    changes: &mut Vec<Change>,
) -> Answer {
    if *method != Method::DELETE {
        return Err(AdminError::method("DELETE"));
    }
    let repository = repository(&mut query)?;
    let forever = query.flag("forever")?;
    query.end()?;
    hosted
        .drop_repository(&repository, forever, OPERATOR)
        .await?;
    let after = serde_json::json!({ "forever": forever });
    changes.push(told("repository deleted", repository.to_string(), after));
    json(StatusCode::OK, &HostedChange { changed: true })
}

/// Restores a repository.
pub(super) async fn restore_repository(
    hosted: &Hosted,
    method: &Method,
    mut query: Query,
    changes: &mut Vec<Change>,
) -> Answer {
    if *method != Method::POST {
        return Err(AdminError::method("POST"));
    }
    let repository = repository(&mut query)?;
    query.end()?;
    hosted.restore_repository(&repository, OPERATOR).await?;
    let name = repository.to_string();
    changes.push(told("repository restored", name, Value::Null));
    json(StatusCode::OK, &HostedChange { changed: true })
}

/// Restores a namespace.
pub(super) async fn restore_namespace(
    hosted: &Hosted,
    method: &Method,
    mut query: Query,
    changes: &mut Vec<Change>,
) -> Answer {
    if *method != Method::POST {
        return Err(AdminError::method("POST"));
    }
    let name = query.need("name")?;
    query.end()?;
    hosted.restore_namespace(&name, OPERATOR).await?;
    changes.push(told("namespace restored", name, Value::Null));
    json(StatusCode::OK, &HostedChange { changed: true })
}

/// Lists what can be restored.
pub(super) async fn deleted(hosted: &Hosted, method: &Method, mut query: Query) -> Answer {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(AdminError::method("GET, HEAD"));
    }
    let after = query.take("after")?.unwrap_or_default();
    query.end()?;
    let rows = hosted.deleted(&after).await?;
    let deleted = rows.into_iter().map(|row: DeletedRow| DeletedInfo {
        kind: if row.is_namespace {
            "namespace".to_owned()
        } else {
            "repository".to_owned()
        },
        name: row.name,
        deleted: When(row.deleted),
        until: When(row.until),
    });
    let deleted = deleted.collect();
    json(StatusCode::OK, &DeletedList { deleted })
}

/// Says what the next run of the rules takes, or runs them now.
pub(super) async fn expire(
    hosted: &Hosted,
    method: &Method,
    query: Query,
    changes: &mut Vec<Change>,
) -> Answer {
    query.end()?;
    match *method {
        Method::GET | Method::HEAD => {
            let preview = hosted.expire_preview().await?;
            let tags = preview.tags.into_iter().map(expiring);
            let plan = ExpiryPlan {
                at: When(preview.at),
                held_until: preview.held_until.map(When),
                tags: tags.collect(),
                more: preview.more,
            };
            json(StatusCode::OK, &plan)
        }
        Method::POST => {
            // It is bounded.
            let expired = hosted.expire_run(&CancellationToken::new()).await?;
            let name = "hosted.expire".to_owned();
            changes.push(told("tags expired", name, expired.into()));
            json(StatusCode::OK, &Expired { expired })
        }
        _ => Err(AdminError::method("GET, HEAD, POST")),
    }
}

fn expiring(planned: Planned) -> ExpiringTag {
    ExpiringTag {
        repository: planned.repository.to_string(),
        tag: planned.tag,
        digest: planned.digest.to_string(),
        pushed: When(planned.pushed),
        rule: planned.rule,
    }
}
