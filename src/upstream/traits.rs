//! The meaning of each failure for what comes next: one table, for health, repeats, accounts and endpoints.

use super::FetchError;

/// The meaning of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a row of answers to independent questions"
)]
pub(super) struct Traits {
    /// Its meaning for the endpoint's health.
    pub(super) health: Health,
    /// It is an answer, and may be about what was asked alone.
    pub(super) is_answer: bool,
    /// A server fails like this for a moment. A port that refuses, and silence, last longer.
    pub(super) is_momentary: bool,
    /// The endpoint says that there is nothing for us.
    pub(super) is_absence: bool,
    /// It says when to come back.
    pub(super) says_when: bool,
    /// A HEAD was refused so that GET may do: by a server that does not know it, has it behind another rule, redirected
    /// to a URL that is signed for GET alone, or inside, where only what a digest checks is fetched. Silence, a broken
    /// server and a limit are the same for both.
    pub(super) refuses_head: bool,
    /// The same endpoint may answer another account.
    pub(super) try_account: bool,
    /// The next endpoint is worth asking.
    pub(super) try_endpoint: bool,
    /// Its place among several errors: the lowest is reported, and the first of equals.
    ///
    /// That the content does not fit is the same everywhere. A limit comes before other failures, because it says when
    /// to come back. An endpoint that could not answer may have what another has not: so a 404 is reported only when
    /// every endpoint has said so, or has refused us, or when the origin says so ([`RANK_ORIGIN_LACKS`]), which has
    /// everything: clients that look for signatures and the like need the 404. Of refusals, the 404 counts more: a
    /// registry that wants a login often does so for names that do not exist, too.
    pub(super) rank: u8,
}

/// The rank of the origin's 404.
pub(super) const RANK_ORIGIN_LACKS: u8 = 1;

/// The state of an endpoint, as far as a failure tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It answered.
    Well,
    Ill,
    /// The failure is not the endpoint's doing, or nothing that time mends.
    Unknown,
}

/// A failure that says nothing in particular.
const PLAIN: Traits = Traits {
    health: Health::Unknown,
    is_answer: false,
    is_momentary: false,
    is_absence: false,
    says_when: false,
    refuses_head: false,
    try_account: false,
    try_endpoint: true,
    rank: 3,
};

const WELL: Traits = Traits {
    health: Health::Well,
    ..PLAIN
};

const ILL: Traits = Traits {
    health: Health::Ill,
    ..PLAIN
};

/// The endpoint has no such thing.
const ABSENT: Traits = Traits {
    is_absence: true,
    refuses_head: true,
    rank: 4,
    ..WELL
};

/// The endpoint has nothing for this account.
const REFUSED: Traits = Traits {
    try_account: true,
    rank: 5,
    ..ABSENT
};

/// The content itself does not fit, and it is the same everywhere.
const UNFIT: Traits = Traits {
    try_endpoint: false,
    rank: 0,
    ..WELL
};

impl FetchError {
    /// The row of this failure.
    pub(super) fn traits(&self) -> Traits {
        match self {
            Self::NotFound { .. } => ABSENT,
            Self::Unauthorized | Self::Denied => REFUSED,
            // The client can do something about it: it comes before what only time mends. And what one endpoint makes too
            // large, as an error page without end, another may have as it should be.
            Self::Challenged(_) | Self::TooLarge { .. } => Traits { rank: 2, ..WELL },
            // It was not asked.
            Self::LoginRefused(_) => Traits {
                health: Health::Unknown,
                refuses_head: false,
                ..REFUSED
            },
            Self::Login(_) => Traits {
                try_account: true,
                ..PLAIN
            },
            Self::RateLimited { .. } => Traits {
                says_when: true,
                try_account: true,
                rank: 2,
                ..WELL
            },
            Self::Unavailable { .. } => Traits {
                is_answer: true,
                says_when: true,
                ..ILL
            },
            Self::RangeNotSatisfiable => UNFIT,
            // RFC 9110: 408 asks for a repeat (section 15.5.9), 5xx is a fault of the server's. 429 comes from a host
            // that was redirected to, and may have passed, or that host be another, in a moment.
            Self::Status(status) => Traits {
                is_answer: *status >= 500,
                is_momentary: matches!(status, 408 | 429 | 500..),
                refuses_head: matches!(status, 400..=407 | 409..=428 | 430..=499 | 501 | 505),
                ..if *status == 408 || *status >= 500 {
                    ILL
                } else {
                    WELL
                }
            },
            Self::Connect(_) | Self::Timeout(_) => ILL,
            Self::Broken(_) => Traits {
                is_momentary: true,
                ..ILL
            },
            Self::Protocol(_) => Traits {
                is_answer: true,
                ..ILL
            },
            // It answered, and it is our own rule that the answer is not followed.
            Self::Inside(_) => Traits {
                refuses_head: true,
                ..WELL
            },
            Self::Loop(_) | Self::Ourselves(_) | Self::Busy | Self::Limited | Self::Token(_) => {
                PLAIN
            }
        }
    }

    /// True if a HEAD was refused so that GET may do.
    #[must_use]
    pub fn refuses_head(&self) -> bool {
        self.traits().refuses_head
    }

    /// True if the upstream says that it has no such thing.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn failure() -> impl Strategy<Value = FetchError> {
        let text = || "[a-z ]{0,8}".prop_map(String::from);
        prop_oneof![
            Just(FetchError::NotFound { code: None }),
            Just(FetchError::Unauthorized),
            Just(FetchError::Challenged(super::super::Challenges::default())),
            Just(FetchError::Denied),
            Just(FetchError::RateLimited { retry_after: None }),
            Just(FetchError::Unavailable {
                retry_after: Duration::ZERO
            }),
            Just(FetchError::RangeNotSatisfiable),
            (400_u16..600).prop_map(FetchError::Status),
            text().prop_map(FetchError::Connect),
            Just(FetchError::Timeout("a test")),
            text().prop_map(FetchError::Broken),
            Just(FetchError::TooLarge {
                what: "a test",
                limit: 1
            }),
            text().prop_map(FetchError::Protocol),
            text().prop_map(FetchError::Loop),
            text().prop_map(FetchError::Inside),
            text().prop_map(FetchError::Ourselves),
            text().prop_map(FetchError::Login),
            text().prop_map(FetchError::LoginRefused),
            Just(FetchError::Busy),
            Just(FetchError::Limited),
            text().prop_map(FetchError::Token),
        ]
    }

    proptest! {
        #[test]
        fn rows_agree_with_themselves(failure in failure()) {
            let traits = failure.traits();
            // One that has no such thing works, and will not have it in a moment.
            prop_assert!(!traits.is_absence || !(traits.is_momentary || traits.says_when));
            prop_assert!(!traits.is_absence || traits.health != Health::Ill);
            // An answer that may be about what was asked alone counts against the endpoint only if others fail too.
            prop_assert!(!traits.is_answer || traits.health == Health::Ill);
            // What says when to come back comes before what does not, and after what is the same everywhere.
            prop_assert!(!traits.says_when || traits.rank > RANK_ORIGIN_LACKS);
            prop_assert_eq!(traits.is_absence, traits.rank > 3);
            prop_assert_eq!(traits.rank == 0, !traits.try_endpoint);
            // A limit, silence and a broken connection are the same for GET.
            prop_assert!(!traits.refuses_head || !traits.says_when);
            prop_assert_ne!(traits.rank, RANK_ORIGIN_LACKS);
        }
    }
}
