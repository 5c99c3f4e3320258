//! Statements and policies.

use super::{Action, Actions, Condition, Pattern};

/// The effect of a statement on what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It is allowed, unless another statement denies it.
    Allow,
    /// It is denied, whatever other statements say.
    Deny,
}

/// One sentence of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The effect.
    pub effect: Effect,
    /// Actions that it means.
    pub actions: Actions,
    /// Resources that it means; one at least.
    pub resources: Vec<Pattern>,
    /// When it holds.
    pub condition: Condition,
}

/// Statements under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Its statements; their order means nothing.
    pub statements: Vec<Statement>,
}

impl Effect {
    /// Its name in statements and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// The actions and resources of a policy that is there without being written.
type BuiltIn = (
    &'static str,
    &'static [(&'static [Action], &'static [&'static str])],
);

/// Content, without the acts of an administrator.
const CONTENT: &[&str] = &["mirror/*", "repository/*"];

const BUILT_IN: &[BuiltIn] = &[
    ("read-only", &[(&[Action::Pull, Action::List], CONTENT)]),
    (
        "developer",
        &[(&[Action::Pull, Action::List, Action::Push], CONTENT)],
    ),
    (
        "maintainer",
        &[(
            &[Action::Pull, Action::List, Action::Push, Action::Delete],
            CONTENT,
        )],
    ),
    ("admin", &[(&Action::ALL, &["*"])]),
    // The state of the server, and every list; no image.
    (
        "auditor",
        &[
            (&[Action::List], CONTENT),
            (&[Action::List], &["admin", "admin/*"]),
        ],
    ),
];

impl Policy {
    /// The policies that every roadstead knows: `read-only`, `developer`, `maintainer`, `admin`, `auditor`.
    #[must_use]
    pub fn built_in() -> Vec<Self> {
        let statement = |(actions, resources): &(&[Action], &[&str])| Statement {
            effect: Effect::Allow,
            actions: actions.iter().copied().collect(),
            resources: resources
                .iter()
                .filter_map(|it| Pattern::parse(it).ok())
                .collect(),
            condition: Condition::default(),
        };
        let policy = |(name, statements): &BuiltIn| Self {
            name: (*name).to_owned(),
            statements: statements.iter().map(statement).collect(),
        };
        BUILT_IN.iter().map(policy).collect()
    }

    /// True if a policy of this name is built in.
    #[must_use]
    pub fn is_built_in(name: &str) -> bool {
        BUILT_IN.iter().any(|(known, _)| *known == name)
    }
}
