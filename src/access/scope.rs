//! Scopes of tokens (distribution, docs/spec/auth/scope.md): what a client wants to do, in its own names.

use super::{Action, Actions};
use serde::{Deserialize, Serialize};

/// The most repositories in one request: a push mounts from some; more is nobody's.
pub const SCOPES_MAX: usize = 64;

/// The longest scope in bytes: the longest name, and words.
const SCOPE_BYTES_MAX: usize = 1024;

/// A wish for one repository, or for the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// `repository`, or `registry`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The repository as the client names it, or `catalog`.
    pub name: String,
    /// The verbs: `pull`, `push`, `delete`, `*`.
    pub actions: Vec<String>,
}

impl Scope {
    /// Reads the values of `scope`, each of which may hold several with spaces between. What is no scope is left out, as
    /// other registries do: the client is told what it has got.
    #[must_use]
    pub fn parse_all<'t>(values: impl Iterator<Item = &'t str>) -> Vec<Self> {
        let words = values.flat_map(str::split_ascii_whitespace);
        words.filter_map(Self::parse).take(SCOPES_MAX).collect()
    }

    /// Reads one. A name may have a port, and so colons.
    fn parse(text: &str) -> Option<Self> {
        if text.len() > SCOPE_BYTES_MAX {
            return None;
        }
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        // `repository(plugin)`: the class means nothing here.
        let kind = kind.split('(').next().unwrap_or(kind);
        let is_known = matches!(kind, "repository" | "registry") && !name.is_empty();
        is_known.then(|| Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            actions: actions
                .split(',')
                .filter(|action| !action.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    }

    /// The actions that its verbs stand for. `push` is no right to pull: clients ask for both.
    #[must_use]
    pub fn wanted(&self) -> Actions {
        let actions = self.actions.iter().flat_map(|verb| match verb.as_str() {
            "*" => vec![Action::Pull, Action::Push, Action::Delete],
            verb => Action::parse(verb).into_iter().collect(),
        });
        actions.collect()
    }

    /// True if it lets its bearer do this with a repository that is named like this.
    #[must_use]
    pub fn allows(&self, name: &str, action: Action) -> bool {
        self.kind == "repository" && self.name == name && self.wanted().contains(action.verb())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<(String, String, Vec<String>)> {
        let scopes = Scope::parse_all([text].into_iter());
        let parts = scopes.into_iter().map(|it| (it.kind, it.name, it.actions));
        parts.collect()
    }

    #[test]
    fn scopes_are_read() {
        let one = |kind: &str, name: &str, actions: &[&str]| {
            let actions = actions.iter().map(|&it| it.to_owned()).collect();
            (kind.to_owned(), name.to_owned(), actions)
        };
        let table = [
            (
                "repository:a/b:pull",
                vec![one("repository", "a/b", &["pull"])],
            ),
            (
                "repository:h:5000/a:pull,push",
                vec![one("repository", "h:5000/a", &["pull", "push"])],
            ),
            (
                "repository(plugin):a:pull",
                vec![one("repository", "a", &["pull"])],
            ),
            (
                "repository:a:pull repository:b:push",
                vec![
                    one("repository", "a", &["pull"]),
                    one("repository", "b", &["push"]),
                ],
            ),
            (
                "registry:catalog:*",
                vec![one("registry", "catalog", &["*"])],
            ),
            ("repository:a:", vec![one("repository", "a", &[])]),
            ("nonsense", vec![]),
            ("repository::pull", vec![]),
            ("other:a:pull", vec![]),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), expected, "{text}");
        }
        let many = "repository:a:pull ".repeat(SCOPES_MAX + 1);
        assert_eq!(parse(&many).len(), SCOPES_MAX);
    }

    #[test]
    fn a_scope_is_of_one_name() {
        let scopes = Scope::parse_all(["repository:a/b:pull,push"].into_iter());
        let scope = scopes.first().expect("a scope");
        assert!(scope.allows("a/b", Action::Pull));
        assert!(scope.allows("a/b", Action::List));
        assert!(scope.allows("a/b", Action::Push));
        assert!(!scope.allows("a/b", Action::Delete));
        assert!(!scope.allows("a/c", Action::Pull));
    }
}
