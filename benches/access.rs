//! The price of a decision: a thousand statements, ten thousand users.
//!
//! ```text
//! cargo bench --bench access          all of it
//! cargo test --bench access           each once, as `cargo test` does too
//! ```
//!
//! Every request of a client asks once, so that a decision has to be lost in a small answer (10 µs).

#![allow(
    clippy::expect_used,
    reason = "a benchmark is a test: it says what it expects by failing"
)]

use criterion::{Criterion, criterion_group, criterion_main};
use roadstead::access::{
    Action, Actions, Attachment, Condition, Context, Effect, Mode, Pattern, Policy, Principal,
    Resource, Rules, Statement, Subject,
};
use roadstead::clock::Timestamp;
use std::hint::black_box;

const STATEMENTS: usize = 1000;
const USERS: usize = 10_000;

/// One policy with all statements, of teams whose names begin alike, attached to each of the users.
fn rules() -> Rules {
    let statement = |number: usize| Statement {
        effect: if number % 10 == 9 {
            Effect::Deny
        } else {
            Effect::Allow
        },
        actions: Actions::parse("pull").expect("an action"),
        resources: vec![
            Pattern::parse(&format!("mirror/ghcr.io/team-{number}/*")).expect("a pattern"),
        ],
        condition: Condition::default(),
    };
    let policy = Policy {
        name: "teams".to_owned(),
        statements: (0..STATEMENTS).map(statement).collect(),
    };
    let attach = |number: usize| Attachment {
        subject: Subject::User(format!("user-{number}")),
        policies: vec!["teams".to_owned()],
    };
    let attachments: Vec<_> = (0..USERS).map(attach).collect();
    Rules::new(Mode::Identified, vec![policy], &attachments).expect("rules")
}

fn decisions(criterion: &mut Criterion) {
    let rules = rules();
    let at = Context {
        source: [10, 0, 0, 1].into(),
        tag: Some("v1"),
        now: Timestamp(1_790_000_000_000),
    };
    let user = Principal::user("user-9999");
    let cases = [
        ("allowed", "team-998", true),
        ("denied", "team-999", false),
        ("of nobody", "other", false),
    ];
    for (name, team, expected) in cases {
        criterion.bench_function(&format!("decide/{name}"), |bench| {
            bench.iter(|| {
                let resource = Resource::mirror("ghcr.io", &format!("{team}/app"));
                let decision = rules.decide(black_box(&user), Action::Pull, &resource, &at);
                assert_eq!(decision.is_allowed(), expected, "{decision}");
            });
        });
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
