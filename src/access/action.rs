//! The verbs of statements.

use std::fmt;

/// A use of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Read manifests, blobs, tags and referrers.
    Pull,
    /// Write manifests, blobs and tags.
    Push,
    /// Delete tags, manifests and blobs.
    Delete,
    /// Read lists of tags and referrers, without the images themselves. Whoever may pull may do that too, unless a
    /// statement denies it.
    List,
    /// Act on the server: its cache, its users, its policies.
    Admin,
}

/// A set of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Actions(u8);

impl Action {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Pull,
        Self::Push,
        Self::Delete,
        Self::List,
        Self::Admin,
    ];

    /// Its name in statements, answers and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Admin => "admin",
        }
    }

    /// The action of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// The verb that a scope has for it (distribution, docs/spec/auth/scope.md): lists come with `pull`.
    #[must_use]
    pub const fn verb(self) -> Self {
        match self {
            Self::List => Self::Pull,
            verb @ (Self::Pull | Self::Push | Self::Delete | Self::Admin) => verb,
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Actions {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// The actions that one word of a statement stands for: an action, `*`, or a name of Alibaba Cloud's RAM for Container Registry
    /// (`cr:PullRepository`; a `*` at its end stands for anything). An action there that has nothing to do with images here,
    /// such as asking for a temporary password, stands for none.
    ///
    /// # Errors
    /// It is no such name: what is wrong with it.
    pub fn parse(word: &str) -> Result<Self, String> {
        if word == "*" {
            return Ok(Action::ALL.into_iter().collect());
        }
        if let Some(action) = Action::parse(word) {
            return Ok(Self::from_iter([action]));
        }
        match word.split_once(':') {
            Some(("cr", name)) => alias(name).ok_or_else(|| {
                format!("is an action of Alibaba Cloud that is not known here: {word:?}")
            }),
            Some(("repo", name)) => Self::parse(name),
            _ => {
                let names = Action::ALL.map(Action::name).join("`, `");
                Err(format!("must be one of `{names}`, `*` or `cr:…`"))
            }
        }
    }

    /// True if this action is one of them.
    #[must_use]
    pub const fn contains(self, action: Action) -> bool {
        self.0 & action.bit() != 0
    }

    /// True if there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL.into_iter().filter(move |it| self.contains(*it))
    }
}

impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        Self(actions.into_iter().fold(0, |all, one| all | one.bit()))
    }
}

/// The beginnings of RAM's names for Container Registry, and what each stands for (Alibaba Cloud, "RAM authorization
/// rules of Container Registry").
const ALIASES: &[(&str, Option<Action>)] = &[
    ("PullRepository", Some(Action::Pull)),
    ("PushRepository", Some(Action::Push)),
    ("DeleteRepository", Some(Action::Delete)),
    ("DeleteArtifact", Some(Action::Delete)),
    ("List", Some(Action::List)),
    ("GetRepository", Some(Action::List)),
    ("GetArtifact", Some(Action::List)),
    ("GetNamespace", Some(Action::List)),
    ("GetRepo", Some(Action::List)),
    // Acts on instances, namespaces, builds and the like, of which there are none here.
    ("Get", None),
    ("Create", None),
    ("Update", None),
    ("Delete", None),
    ("Cancel", None),
    ("Reset", None),
    ("Start", None),
    ("Change", None),
    ("Set", None),
];

/// The actions of a name of RAM, without `cr:`.
fn alias(name: &str) -> Option<Actions> {
    if name == "*" {
        return Some(Action::ALL.into_iter().collect());
    }
    // A `*` within a name would mean more than can be told here.
    if name
        .split_once('*')
        .is_some_and(|(_, rest)| !rest.is_empty())
    {
        return None;
    }
    let named = |&&(beginning, _): &&(&str, Option<Action>)| match name.split_once('*') {
        Some((literal, _)) => beginning.starts_with(literal) || literal.starts_with(beginning),
        None => name.starts_with(beginning),
    };
    let mut found = ALIASES.iter().filter(named).peekable();
    found.peek()?;
    Some(found.filter_map(|(_, action)| *action).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_for_actions() {
        let all = [
            ("pull", vec![Action::Pull]),
            ("repo:push", vec![Action::Push]),
            ("*", Action::ALL.to_vec()),
            ("cr:*", Action::ALL.to_vec()),
            ("cr:PullRepository", vec![Action::Pull]),
            ("cr:PushRepository", vec![Action::Push]),
            ("cr:DeleteRepositoryTag", vec![Action::Delete]),
            ("cr:DeleteRepository*", vec![Action::Delete]),
            ("cr:ListRepositoryTag", vec![Action::List]),
            ("cr:List*", vec![Action::List]),
            ("cr:P*", vec![Action::Pull, Action::Push]),
            ("cr:GetAuthorizationToken", vec![]),
            ("cr:GetRepoTagManifest", vec![Action::List]),
            ("cr:GetInstanceVpcEndpoint", vec![]),
            ("cr:CreateRepository", vec![]),
            ("cr:DeleteNamespace", vec![]),
            ("cr:Delete*", vec![Action::Delete]),
        ];
        for (word, expected) in all {
            let actions = Actions::parse(word).expect(word);
            assert_eq!(actions.iter().collect::<Vec<_>>(), expected, "{word}");
        }
    }

    #[test]
    fn other_words_are_refused() {
        for word in [
            "",
            "Pull",
            "read",
            "cr:Fly",
            "cr:",
            "cr:*Tag",
            "ecr:PullRepository",
        ] {
            let why = Actions::parse(word).expect_err(word);
            assert!(why.starts_with("must be one of `pull`") || why.contains("Alibaba"));
        }
    }
}
