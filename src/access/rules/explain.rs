//! Explanations of a decision, statement by statement.

use super::{Compiled, Rules};
use crate::access::{Action, Context, Effect, Kind, Principal, Resource, Statement};

/// The say of a statement on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// It decides it, if no other is stronger.
    Applies,
    /// It means other actions.
    OtherAction,
    /// It means other resources.
    OtherResource,
    /// Its condition does not hold.
    ConditionFails,
}

/// A statement, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Its policy.
    pub policy: String,
    /// Its number in it, from 1.
    pub number: usize,
    /// The effect.
    pub effect: Effect,
    /// Its say.
    pub says: Says,
    /// It is of a policy that a token is narrowed to.
    pub narrows: bool,
}

impl Says {
    /// The words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Applies => "applies",
            Self::OtherAction => "other actions",
            Self::OtherResource => "other resources",
            Self::ConditionFails => "condition does not hold",
        }
    }
}

impl Rules {
    /// All statements of somebody's policies, and what each says of a request.
    #[must_use]
    pub fn explain(
        &self,
        who: &Principal,
        action: Action,
        resource: &Resource<'_>,
        at: &Context<'_>,
    ) -> Vec<Explained> {
        if who.kind == Kind::Operator {
            return Vec::new();
        }
        let own = self.of(who).map(|number| (number, false));
        let names = who.narrowed.iter().flatten();
        let narrowed = names.filter_map(|name| self.by_name.get(name));
        let narrowed = narrowed.map(|number| (*number, true));
        let mut all = Vec::new();
        let mut seen = Vec::new();
        for (number, narrows) in own.chain(narrowed) {
            let Some(compiled) = self.policies.get(number) else {
                continue;
            };
            if !seen.contains(&(number, narrows)) {
                seen.push((number, narrows));
                all.extend(compiled.explain(narrows, who, action, resource, at));
            }
        }
        all
    }
}

impl Compiled {
    fn explain<'a>(
        &'a self,
        narrows: bool,
        who: &'a Principal,
        action: Action,
        resource: &'a Resource<'_>,
        at: &'a Context<'_>,
    ) -> impl Iterator<Item = Explained> + 'a {
        let statements = (1..).zip(&self.policy.statements);
        statements.map(move |(number, statement)| Explained {
            policy: self.policy.name.clone(),
            number,
            effect: statement.effect,
            says: statement.says(who, action, resource, at),
            narrows,
        })
    }
}

impl Statement {
    fn says(
        &self,
        who: &Principal,
        action: Action,
        resource: &Resource<'_>,
        at: &Context<'_>,
    ) -> Says {
        // Whoever may pull may list.
        let means = self.actions.contains(action)
            || (action == Action::List && self.actions.contains(Action::Pull));
        if !means {
            return Says::OtherAction;
        }
        if !self
            .resources
            .iter()
            .any(|pattern| pattern.matches(resource))
        {
            return Says::OtherResource;
        }
        if self.holds(who, at) {
            Says::Applies
        } else {
            Says::ConditionFails
        }
    }
}
