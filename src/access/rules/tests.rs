use super::*;
use crate::access::{Actions, Condition, Pattern};
use crate::clock::Timestamp;

fn statement(effect: Effect, actions: &[Action], resources: &[&str]) -> Statement {
    Statement {
        effect,
        actions: actions.iter().copied().collect(),
        resources: resources
            .iter()
            .map(|it| Pattern::parse(it).expect(it))
            .collect(),
        condition: Condition::default(),
    }
}

fn policy(name: &str, statements: Vec<Statement>) -> Policy {
    Policy {
        name: name.to_owned(),
        statements,
    }
}

fn attach(subject: Subject, policies: &[&str]) -> Attachment {
    Attachment {
        subject,
        policies: policies.iter().map(|&it| it.to_owned()).collect(),
    }
}

fn at(tag: Option<&str>) -> Context<'_> {
    Context {
        source: [127, 0, 0, 1].into(),
        tag,
        now: Timestamp(0),
    }
}

fn decide(rules: &Rules, who: &Principal, action: Action, resource: &str) -> String {
    let resource = Resource::parse(resource).expect(resource);
    rules.decide(who, action, &resource, &at(None)).to_string()
}

const ALPINE: &str = "mirror/docker.io/library/alpine";
const SECRET: &str = "mirror/docker.io/acme/secret";

#[test]
fn without_a_statement_the_mode_decides() {
    let (nobody, alice) = (Principal::anonymous(), Principal::user("alice"));
    let operator = Principal::of(Kind::Operator, "root");
    let rules = |mode| Rules::new(mode, vec![], &[]).expect("no rules");
    let (open, identified) = (rules(Mode::Open), rules(Mode::Identified));
    let table = [
        (&open, &nobody, Action::Pull, ALPINE, "allow by default"),
        (&open, &nobody, Action::List, ALPINE, "allow by default"),
        (&open, &nobody, Action::Push, ALPINE, "deny by default"),
        (&open, &nobody, Action::Admin, "admin", "deny by default"),
        (&open, &nobody, Action::List, "admin", "deny by default"),
        (
            &identified,
            &nobody,
            Action::Pull,
            ALPINE,
            "deny by default",
        ),
        (
            &identified,
            &alice,
            Action::Pull,
            ALPINE,
            "allow by default",
        ),
        (
            &identified,
            &alice,
            Action::Admin,
            "admin",
            "deny by default",
        ),
        (
            &identified,
            &operator,
            Action::Admin,
            "admin",
            "allow by default",
        ),
    ];
    for (rules, who, action, resource, expected) in table {
        let decided = decide(rules, who, action, resource);
        assert_eq!(decided, expected, "{who:?} {action}");
    }
    let strict = rules(Mode::Open).with_ruled(["docker.io".to_owned()].into());
    assert_eq!(
        decide(&strict, &nobody, Action::Pull, ALPINE),
        "deny by default"
    );
    let elsewhere = "mirror/quay.io/a/b";
    assert_eq!(
        decide(&strict, &nobody, Action::Pull, elsewhere),
        "allow by default"
    );
}

#[test]
fn a_denial_wins_over_what_allows_and_no_statement_is_a_denial() {
    let rules = Rules::new(
        Mode::Open,
        vec![
            policy(
                "hub",
                vec![
                    statement(Effect::Allow, &[Action::Pull], &["mirror/docker.io/*"]),
                    statement(Effect::Deny, &[Action::Pull], &[SECRET]),
                ],
            ),
            policy(
                "all",
                vec![statement(Effect::Allow, &[Action::Pull], &["*"])],
            ),
        ],
        &[
            attach(Subject::User("alice".into()), &["all", "hub"]),
            attach(Subject::Group("ops".into()), &["admin"]),
            attach(Subject::Robot("*".into()), &["hub"]),
            attach(Subject::Claim("sub".into(), "repo:acme/*".into()), &["all"]),
        ],
    )
    .expect("rules");
    let alice = Principal::user("alice");
    let ops = Principal {
        groups: vec!["ops".to_owned()],
        ..Principal::user("bob")
    };
    let robot = Principal::of(Kind::Robot, "ci");
    let job = Principal {
        claims: [("sub".to_owned(), "repo:acme/app".to_owned())].into(),
        ..Principal::of(Kind::Workload, "github")
    };
    let table = [
        (&alice, Action::Pull, ALPINE, "allow by all#1"),
        (&alice, Action::Pull, SECRET, "deny by hub#2"),
        (&alice, Action::List, ALPINE, "allow by all#1"),
        (&alice, Action::List, SECRET, "deny by hub#2"),
        (&alice, Action::Push, ALPINE, "deny by default"),
        (&alice, Action::Admin, "admin", "deny by default"),
        (&ops, Action::Admin, "admin", "allow by admin#1"),
        (&ops, Action::Pull, SECRET, "allow by admin#1"),
        (&robot, Action::Pull, ALPINE, "allow by hub#1"),
        (&robot, Action::Pull, SECRET, "deny by hub#2"),
        (&job, Action::Pull, SECRET, "deny by hub#2"),
        (
            &Principal::user("carol"),
            Action::Pull,
            ALPINE,
            "deny by default",
        ),
        (
            &Principal::anonymous(),
            Action::Pull,
            ALPINE,
            "deny by default",
        ),
    ];
    for (who, action, resource, expected) in table {
        assert_eq!(
            decide(&rules, who, action, resource),
            expected,
            "{who:?} {action} {resource}"
        );
    }
}

#[test]
fn what_anonymous_clients_may_do_everybody_may() {
    let rules = Rules::new(
        Mode::Identified,
        vec![policy(
            "official",
            vec![statement(
                Effect::Allow,
                &[Action::Pull],
                &["mirror/docker.io/library/*"],
            )],
        )],
        &[attach(Subject::Anonymous, &["official"])],
    )
    .expect("rules");
    for who in [Principal::anonymous(), Principal::user("alice")] {
        assert_eq!(
            decide(&rules, &who, Action::Pull, ALPINE),
            "allow by official#1"
        );
        assert_eq!(
            decide(&rules, &who, Action::Pull, SECRET),
            "deny by default"
        );
    }
}

#[test]
fn a_token_does_at_most_what_its_owner_may() {
    let pull = |pattern: &str| {
        vec![statement(
            Effect::Allow,
            &[Action::Pull, Action::Push],
            &[pattern],
        )]
    };
    let rules = Rules::new(
        Mode::Identified,
        vec![
            policy("team", pull("mirror/docker.io/*")),
            policy("narrow", pull("*alpine")),
        ],
        &[attach(Subject::User("alice".into()), &["team"])],
    )
    .expect("rules");
    let token = |narrowed: &[&[&str]]| Principal {
        narrowed: narrowed
            .iter()
            .map(|names| names.iter().map(|&it| it.to_owned()).collect())
            .collect(),
        ..Principal::user("alice")
    };
    let table = [
        (token(&[&["narrow"]]), ALPINE, "allow by team#1"),
        (token(&[&["narrow"]]), SECRET, "deny by default"),
        (
            token(&[&["narrow"]]),
            "mirror/ghcr.io/x/alpine",
            "deny by default",
        ),
        (token(&[&["admin"], &["narrow"]]), SECRET, "deny by default"),
        (token(&[&["gone"]]), ALPINE, "deny by default"),
    ];
    for (who, resource, expected) in table {
        assert_eq!(
            decide(&rules, &who, Action::Pull, resource),
            expected,
            "{who:?}"
        );
    }
}

#[test]
fn a_condition_on_the_tag_is_about_the_name() {
    let tagged = |effect, tag: &str| Statement {
        condition: Condition {
            tag: vec![tag.to_owned()],
            ..Condition::default()
        },
        ..statement(effect, &[Action::Pull], &["*"])
    };
    let rules = Rules::new(
        Mode::Open,
        vec![policy(
            "p",
            vec![tagged(Effect::Allow, "v*"), tagged(Effect::Deny, "v0*")],
        )],
        &[attach(Subject::Anonymous, &["p"])],
    )
    .expect("rules");
    let resource = Resource::parse(ALPINE).unwrap();
    let told = |tag| {
        let decision = rules.decide(&Principal::anonymous(), Action::Pull, &resource, &at(tag));
        decision.to_string()
    };
    assert_eq!(told(Some("v1")), "allow by p#1");
    assert_eq!(told(Some("v0.1")), "deny by p#2");
    assert_eq!(told(Some("latest")), "deny by default");
    assert_eq!(told(None), "allow by p#1");
}

#[test]
fn names_of_policies_are_checked() {
    let twice = || policy("p", vec![]);
    let rules = Rules::new(Mode::Open, vec![twice(), twice()], &[]);
    assert_eq!(rules.unwrap_err(), RulesError::Twice("p".to_owned()));
    let rules = Rules::new(Mode::Open, vec![policy("admin", vec![])], &[]);
    assert_eq!(rules.unwrap_err(), RulesError::Twice("admin".to_owned()));
    let attached = [attach(Subject::Anonymous, &["x"])];
    let rules = Rules::new(Mode::Open, vec![], &attached);
    assert_eq!(rules.unwrap_err(), RulesError::Unknown("x".to_owned()));
    assert!(Actions::NONE.is_empty());
}

#[test]
fn what_may_be_pulled_begins_as_some_statement_says() {
    let allow = |resources: &[&str]| statement(Effect::Allow, &[Action::Pull], resources);
    let policies = vec![
        policy("some", vec![allow(&["repository/a/*", "repository/b*"])]),
        policy("inner", vec![allow(&["repository/*/app", "mirror/x/*"])]),
        policy(
            "push",
            vec![
                statement(Effect::Allow, &[Action::Push], &["repository/c/*"]),
                statement(Effect::Deny, &[Action::Pull], &["repository/d/*"]),
            ],
        ),
    ];
    let attachments = [
        attach(Subject::User("one".into()), &["some", "push"]),
        attach(Subject::User("two".into()), &["inner"]),
        attach(Subject::User("all".into()), &["admin"]),
    ];
    let rules = Rules::new(Mode::Identified, policies, &attachments).unwrap();
    let repositories = ["a/app", "a/x", "b/app", "bb/x", "c/app", "c/x", "d/app"];
    for user in ["one", "two", "all", "nobody"] {
        let who = Principal::user(user);
        let beginnings = rules.beginnings(&who, Action::Pull);
        for name in repositories {
            let resource = Resource::repository(name);
            let is_allowed = rules.decide(&who, Action::Pull, &resource, &at(None));
            let is_reached = beginnings
                .iter()
                .any(|it| resource.as_str().starts_with(it));
            assert!(!is_allowed.is_allowed() || is_reached, "{user} {name}");
        }
    }
    let one = rules.beginnings(&Principal::user("one"), Action::Pull);
    assert_eq!(one, ["repository/a/", "repository/b"]);
    let open = Rules::open();
    assert_eq!(open.beginnings(&Principal::anonymous(), Action::Pull), [""]);
    let closed = Rules::new(Mode::Identified, Vec::new(), &[]).unwrap();
    assert!(
        closed
            .beginnings(&Principal::anonymous(), Action::Pull)
            .is_empty()
    );
}
