//! The account that a request is put down to: who asks, what is left for him, and the audit log.

use crate::access::Principal;
use crate::access::limits::Spending;
use crate::audit::{Asker, Audit, Event, Who};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// An anonymous client's, until more is known.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// The identity; `None` for a client that has not said it.
    who: Option<Arc<Principal>>,
    /// The id of the token that says so.
    token: Option<Arc<str>>,
    /// The count of the answer's bytes.
    spending: Option<Spending>,
    audit: Audit,
    /// The rules have refused it, and the audit log says so.
    is_refused: bool,
    /// The place of its body among those that other nodes read.
    place: Option<OwnedSemaphorePermit>,
}

impl Account {
    /// Records go there.
    pub(crate) fn audit_to(&mut self, audit: &Audit) {
        self.audit = audit.clone();
    }

    /// It is known who asks.
    pub(crate) fn belongs_to(&mut self, who: &Arc<Principal>, token: Option<Arc<str>>) {
        self.who = (!who.is_anonymous()).then(|| Arc::clone(who));
        self.token = token;
    }

    /// The bytes of the answer are counted there.
    pub(crate) fn spends(&mut self, spending: Option<Spending>) {
        self.spending = spending;
    }

    /// It has a place until its end.
    pub(crate) fn holds(&mut self, place: OwnedSemaphorePermit) {
        self.place = Some(place);
    }

    /// The rules refuse it.
    pub(crate) fn refuse(&mut self) {
        self.is_refused = true;
    }

    /// True if the end of a pull is worth a record.
    pub(crate) fn records_pulls(&self) -> bool {
        self.audit.is_on() && !self.is_refused
    }

    /// The name in the access line.
    pub(crate) fn name(&self) -> Option<Cow<'_, str>> {
        self.who.as_ref()?.account()
    }

    /// True if records are taken.
    pub(crate) fn is_audited(&self) -> bool {
        self.audit.is_on()
    }

    /// Records an event. `client`: the address.
    pub(crate) fn record(&self, client: &str, request_id: &str, event: &Event<'_>) {
        self.audit.record(
            &Asker {
                who: who(self.who.as_deref()),
                token: self.token.as_deref(),
                client,
                request_id: Some(request_id),
            },
            event,
        );
    }

    /// Time for which these bytes are held back.
    pub(crate) fn pace(&self, bytes: usize) -> Duration {
        match &self.spending {
            Some(spending) => spending.pace(bytes),
            None => Duration::ZERO,
        }
    }

    /// Bytes were sent.
    pub(crate) fn spent(&self, bytes: usize) {
        if let Some(spending) = &self.spending {
            spending.spent(bytes);
        }
    }

    /// The most bytes that are sent at once.
    pub(crate) fn piece_max(&self) -> usize {
        let spending = self.spending.as_ref();
        spending.and_then(Spending::piece_max).unwrap_or(usize::MAX)
    }
}

/// An identity as records have it.
pub(crate) fn who(principal: Option<&Principal>) -> Who<'_> {
    match principal {
        Some(principal) => Who {
            kind: principal.kind.name(),
            name: &principal.name,
        },
        None => Who {
            kind: crate::access::Kind::Anonymous.name(),
            name: "",
        },
    }
}
