//! Policies compiled, whom they are attached to, and the decision.

pub mod explain;

use super::resource::glob;
use super::trie::Trie;
use super::{Action, Context, Effect, Kind, Policy, Principal, Resource, Statement};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// Whom policies are attached to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A user by name, or a client certificate by its name; `*` is every one of them.
    User(String),
    /// Everybody in a group.
    Group(String),
    /// A robot by name, or a workload by the name of its issuer in the configuration; `*` is every one of them.
    Robot(String),
    /// Whoever has a claim that matches a pattern.
    Claim(String, String),
    /// Whoever has not said who he is.
    Anonymous,
}

/// Policies, by their names, of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Whom.
    pub subject: Subject,
    /// Names of policies.
    pub policies: Vec<String>,
}

/// The rule where no statement was written at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Anybody may pull and list.
    Open,
    /// Whoever has said who he is may pull and list.
    Identified,
}

/// A decision, and the statement that has made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'r> {
    /// Allowed or denied.
    pub effect: Effect,
    /// The policy and the number of the statement in it, from 1; `None` where no statement says anything.
    pub statement: Option<(&'r str, usize)>,
}

/// A fault of policies and attachments as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// There are two of a name.
    #[error("there are two policies {0:?}")]
    Twice(String),
    /// An attachment names a policy that there is not.
    #[error("there is no policy {0:?}")]
    Unknown(String),
}

/// All policies, compiled, and whom they are attached to.
#[derive(Clone, Debug)]
pub struct Rules {
    mode: Mode,
    policies: Vec<Compiled>,
    by_name: BTreeMap<String, usize>,
    attached: Attached,
    /// Upstreams of which nobody gets anything without a statement.
    ruled: HashSet<String>,
    /// Some statement was written: without one, [`Mode`] decides.
    has_statements: bool,
}

/// Numbers of policies, by whom they are attached to.
#[derive(Clone, Debug, Default)]
struct Attached {
    anonymous: Vec<usize>,
    users: HashMap<String, Vec<usize>>,
    robots: HashMap<String, Vec<usize>>,
    groups: HashMap<String, Vec<usize>>,
    claims: Vec<(String, String, Vec<usize>)>,
}

/// A policy, with its statements by the literal beginning of their patterns.
#[derive(Clone, Debug)]
struct Compiled {
    policy: Policy,
    /// The number of a statement, and that of one of its patterns.
    index: Trie<(usize, usize)>,
}

impl Default for Rules {
    /// Nothing was written: anybody may pull.
    fn default() -> Self {
        Self::open()
    }
}

impl Decision<'_> {
    /// True if it may be done.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.effect == Effect::Allow
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.statement {
            Some((policy, number)) => write!(f, "{} by {policy}#{number}", self.effect.name()),
            None => write!(f, "{} by default", self.effect.name()),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user {name}"),
            Self::Group(name) => write!(f, "group {name}"),
            Self::Robot(name) => write!(f, "robot {name}"),
            Self::Claim(name, pattern) => write!(f, "claim {name}={pattern}"),
            Self::Anonymous => f.write_str("anonymous"),
        }
    }
}

impl Rules {
    /// Anybody may pull and list; there is no statement.
    #[must_use]
    pub fn open() -> Self {
        Self {
            mode: Mode::Open,
            policies: Vec::new(),
            by_name: BTreeMap::new(),
            attached: Attached::default(),
            ruled: HashSet::new(),
            has_statements: false,
        }
    }

    /// Compiles policies, those that are built in besides.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn new(
        mode: Mode,
        policies: Vec<Policy>,
        attachments: &[Attachment],
    ) -> Result<Self, RulesError> {
        let mut rules = Self {
            mode,
            has_statements: !policies.is_empty() || !attachments.is_empty(),
            ..Self::open()
        };
        for policy in Policy::built_in().into_iter().chain(policies) {
            let name = policy.name.clone();
            let number = rules.policies.len();
            if rules.by_name.insert(name.clone(), number).is_some() {
                return Err(RulesError::Twice(name));
            }
            rules.policies.push(Compiled::new(policy));
        }
        for attachment in attachments {
            let numbers = rules.numbers(&attachment.policies)?;
            rules.attached.add(&attachment.subject, numbers);
        }
        Ok(rules)
    }

    /// The same with upstreams of which nobody gets anything without a statement.
    #[must_use]
    pub fn with_ruled(self, ruled: HashSet<String>) -> Self {
        Self { ruled, ..self }
    }

    /// True if a policy of this name exists.
    #[must_use]
    pub fn has_policy(&self, name: &str) -> bool {
        self.by_name.contains_key(name) || Policy::is_built_in(name)
    }

    /// Answers every question of permission: may `who` do `action` with `resource` under these circumstances? A
    /// statement that denies it wins over all that allow it, and what no statement allows is denied. Where no statement
    /// was written at all, [`Mode`] decides. What a token is narrowed to can only take away.
    #[must_use]
    pub fn decide(
        &self,
        who: &Principal,
        action: Action,
        resource: &Resource<'_>,
        at: &Context<'_>,
    ) -> Decision<'_> {
        let decision = self.by_identity(who, action, resource, at);
        if !decision.is_allowed() {
            return decision;
        }
        for names in &who.narrowed {
            // A policy that is gone allows nothing any more.
            let numbers = names.iter().filter_map(|name| self.by_name.get(name));
            let narrowed = self.by_policies(&numbers.copied(), who, action, resource, at);
            if !narrowed.is_allowed() {
                return narrowed;
            }
        }
        decision
    }

    /// True if some statement may allow somebody something whose name begins like this.
    #[must_use]
    pub fn reaches(&self, who: &Principal, action: Action, beginning: &str) -> bool {
        if (!self.has_statements && who.policies.is_empty()) || who.kind == Kind::Operator {
            return self.mode == Mode::Open || !who.is_anonymous();
        }
        let mut policies = self.of(who).filter_map(|number| self.policies.get(number));
        policies.any(|compiled| {
            let mut statements = compiled.policy.statements.iter();
            statements.any(|it| it.reaches(action, beginning))
        })
    }

    /// The beginnings of all names of which some statement may allow somebody something; an empty one means any name.
    #[must_use]
    pub fn beginnings(&self, who: &Principal, action: Action) -> Vec<&str> {
        if (!self.has_statements && who.policies.is_empty()) || who.kind == Kind::Operator {
            let may_enter = self.mode == Mode::Open || !who.is_anonymous();
            return may_enter.then_some("").into_iter().collect();
        }
        let policies = self.of(who).filter_map(|number| self.policies.get(number));
        let statements = policies.flat_map(|compiled| &compiled.policy.statements);
        let allowing = statements
            .filter(|it| it.effect == Effect::Allow && it.actions.contains(action))
            .flat_map(|it| &it.resources);
        allowing.map(super::Pattern::literal).collect()
    }

    /// The policies of somebody.
    fn of<'a>(&'a self, who: &'a Principal) -> impl Iterator<Item = usize> + Clone + use<'a> {
        let own = who.policies.iter();
        let own = own.filter_map(|name| self.by_name.get(name).copied());
        own.chain(self.attached.of(who))
    }

    /// The decision without what a token is narrowed to.
    fn by_identity(
        &self,
        who: &Principal,
        action: Action,
        resource: &Resource<'_>,
        at: &Context<'_>,
    ) -> Decision<'_> {
        if who.kind == Kind::Operator {
            return Decision::by_default(Effect::Allow);
        }
        if !self.has_statements && who.policies.is_empty() {
            let reads = matches!(action, Action::Pull | Action::List);
            let is_content =
                resource.as_str() != "admin" && !resource.as_str().starts_with("admin/");
            let is_ruled = resource
                .upstream()
                .is_some_and(|it| self.ruled.contains(it));
            // What is pushed here was configured to be, and is for those who say who they are.
            let writes = matches!(action, Action::Push | Action::Delete)
                && resource.as_str().starts_with("repository/")
                && !who.is_anonymous();
            let may_enter = !is_ruled && (self.mode == Mode::Open || !who.is_anonymous());
            return Decision::by_default(if (reads && is_content && may_enter) || writes {
                Effect::Allow
            } else {
                Effect::Deny
            });
        }
        self.by_policies(&self.of(who), who, action, resource, at)
    }

    /// The decision of these policies. Whoever may pull may list, unless that is denied.
    fn by_policies<'r>(
        &'r self,
        numbers: &(impl Iterator<Item = usize> + Clone),
        who: &Principal,
        action: Action,
        resource: &Resource<'_>,
        at: &Context<'_>,
    ) -> Decision<'r> {
        let of = |action| {
            let policies = numbers
                .clone()
                .filter_map(|number| self.policies.get(number));
            let mut allowed = None;
            for compiled in policies {
                match compiled.decide(who, action, resource, at) {
                    Some((Effect::Deny, number)) => {
                        return Some(compiled.decision(Effect::Deny, number));
                    }
                    Some((Effect::Allow, number)) if allowed.is_none() => {
                        allowed = Some(compiled.decision(Effect::Allow, number));
                    }
                    Some((Effect::Allow, _)) | None => {}
                }
            }
            allowed
        };
        let decision = match action {
            Action::List => of(Action::List).or_else(|| of(Action::Pull)),
            Action::Pull | Action::Push | Action::Delete | Action::Admin => of(action),
        };
        decision.unwrap_or(Decision::by_default(Effect::Deny))
    }

    fn numbers(&self, names: &[String]) -> Result<Vec<usize>, RulesError> {
        let number = |name: &String| {
            let number = self.by_name.get(name).copied();
            number.ok_or_else(|| RulesError::Unknown(name.clone()))
        };
        names.iter().map(number).collect()
    }
}

impl Decision<'_> {
    fn by_default(effect: Effect) -> Self {
        Self {
            effect,
            statement: None,
        }
    }
}

impl Attached {
    fn add(&mut self, subject: &Subject, numbers: Vec<usize>) {
        let into = match subject {
            Subject::Anonymous => &mut self.anonymous,
            Subject::User(name) => self.users.entry(name.clone()).or_default(),
            Subject::Robot(name) => self.robots.entry(name.clone()).or_default(),
            Subject::Group(name) => self.groups.entry(name.clone()).or_default(),
            Subject::Claim(name, pattern) => {
                self.claims.push((name.clone(), pattern.clone(), numbers));
                return;
            }
        };
        into.extend(numbers);
    }

    /// The policies of somebody. What anonymous clients may do everybody may.
    fn of<'a>(&'a self, who: &'a Principal) -> impl Iterator<Item = usize> + Clone + use<'a> {
        let named = match who.kind {
            // A certificate's name is one that its authority has given, as a user's is.
            Kind::User | Kind::Certificate => Some(&self.users),
            Kind::Robot | Kind::Workload => Some(&self.robots),
            Kind::Anonymous | Kind::Operator => None,
        };
        let own = named.into_iter().flat_map(|all| {
            let own = all.get(&*who.name);
            own.into_iter().chain(all.get("*"))
        });
        let groups = who.groups.iter().filter_map(|group| self.groups.get(group));
        let claims = self.claims.iter().filter(|(name, pattern, _)| {
            let value = who.claims.get(name);
            value.is_some_and(|value| glob(pattern, value))
        });
        let claims = claims.map(|(_, _, numbers)| numbers);
        let all = own.chain(groups).chain(claims);
        all.flatten().chain(&self.anonymous).copied()
    }
}

impl Compiled {
    fn new(policy: Policy) -> Self {
        let patterns = (0..).zip(&policy.statements).flat_map(|(statement, it)| {
            let resources = (0..).zip(&it.resources);
            resources.map(move |(at, pattern)| (pattern.literal().to_owned(), (statement, at)))
        });
        let index = Trie::new(patterns);
        Self { policy, index }
    }

    /// The first statement that denies it, or else the first that allows it.
    fn decide(
        &self,
        who: &Principal,
        action: Action,
        resource: &Resource<'_>,
        at: &Context<'_>,
    ) -> Option<(Effect, usize)> {
        let mut decided: Option<(Effect, usize)> = None;
        for &(number, pattern) in self.index.of(resource.as_str()) {
            let Some(statement) = self.policy.statements.get(number) else {
                continue;
            };
            let pattern = statement.resources.get(pattern);
            if !statement.actions.contains(action)
                || !pattern.is_some_and(|pattern| pattern.matches(resource))
                || !statement.holds(who, at)
            {
                continue;
            }
            let stronger = match decided {
                None => true,
                Some((Effect::Allow, _)) if statement.effect == Effect::Deny => true,
                Some((effect, first)) => effect == statement.effect && number < first,
            };
            if stronger {
                decided = Some((statement.effect, number));
            }
        }
        decided
    }

    fn decision(&self, effect: Effect, number: usize) -> Decision<'_> {
        Decision {
            effect,
            statement: Some((&self.policy.name, number + 1)),
        }
    }
}

impl Statement {
    /// True if it allows something whose name may begin like this.
    fn reaches(&self, action: Action, beginning: &str) -> bool {
        let may_begin = |pattern: &super::Pattern| {
            let literal = pattern.literal();
            literal.starts_with(beginning) || beginning.starts_with(literal)
        };
        self.effect == Effect::Allow
            && self.actions.contains(action)
            && self.resources.iter().any(may_begin)
    }

    /// True if its condition holds. A tag leads to digests, so that what allows a tag allows the content behind it; what
    /// denies a tag denies that name alone.
    fn holds(&self, who: &Principal, at: &Context<'_>) -> bool {
        self.condition.is_empty() || self.condition.holds(who, at, self.effect == Effect::Allow)
    }
}

#[cfg(test)]
mod tests;
