use super::*;

const KEYS: usize = 3000;

fn id(number: u8) -> NodeId {
    NodeId([number; 16])
}

fn at(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 5002))
}

fn hello(number: u8) -> Hello {
    Hello {
        protocol: 1,
        node: id(number).to_string(),
        process: format!("process {number}"),
        version: String::new(),
        host: String::new(),
        zone: None,
        draining: false,
    }
}

/// Node `me` of these, all of which it sees.
fn members(me: u8, others: &[u8]) -> Members {
    let members = Members::new(id(me), format!("process {me}"));
    let addresses: Vec<SocketAddr> = others.iter().chain([&me]).map(|it| at(*it)).collect();
    members.listed(&addresses);
    for number in others.iter().chain([&me]) {
        members.heard(at(*number), hello(*number));
    }
    members
}

fn owner(members: &Members, key: &str) -> NodeId {
    let before = members.before_me(key);
    before.first().map_or(members.me(), |node| node.id)
}

#[test]
fn all_nodes_agree_on_the_owner_and_each_has_its_part() {
    let nodes = [
        members(1, &[2, 3]),
        members(2, &[1, 3]),
        members(3, &[1, 2]),
    ];
    let mut owned = BTreeMap::new();
    for key in (0..KEYS).map(|it| it.to_string()) {
        let owners: Vec<NodeId> = nodes.iter().map(|it| owner(it, &key)).collect();
        assert!(owners.iter().all(|it| *it == owners[0]), "{key}");
        *owned.entry(owners[0]).or_insert(0) += 1;
    }
    assert_eq!(owned.len(), 3);
    for (node, count) in owned {
        assert!((KEYS / 4..KEYS / 2).contains(&count), "{node}: {count}");
    }
}

#[test]
fn a_node_that_comes_takes_its_part_and_no_more() {
    let (three, four) = (members(1, &[2, 3]), members(1, &[2, 3, 4]));
    for key in (0..KEYS).map(|it| it.to_string()) {
        let (before, after) = (owner(&three, &key), owner(&four, &key));
        assert!(after == before || after == id(4), "{key}");
    }
}

#[test]
fn a_node_that_is_gone_or_leaves_owns_nothing() {
    let members = members(1, &[2]);
    let key = (0..KEYS).map(|it| it.to_string());
    let key = key.into_iter().find(|key| owner(&members, key) == id(2));
    let key = key.unwrap();
    let waited_for = members.before_me(&key)[0].gone.clone();
    // One silence may be a lost packet.
    assert_eq!(members.silent(at(2), "it is silent", false), None);
    assert_eq!(owner(&members, &key), id(2));
    let gone = members.silent(at(2), "it is silent", false);
    assert!(matches!(gone, Some(News::Gone(..))), "{gone:?}");
    assert!(waited_for.is_cancelled(), "nobody waits for it any more");
    assert_eq!(owner(&members, &key), id(1));
    assert!(matches!(
        members.heard(at(2), hello(2)),
        Some(News::Came(_))
    ));
    let leaves = Hello {
        draining: true,
        ..hello(2)
    };
    assert_eq!(
        members.heard(at(2), leaves),
        Some(News::Leaves(id(2), true))
    );
    assert_eq!(owner(&members, &key), id(1));
    assert_eq!(members.count(), 1);
    members.heard(at(2), hello(2));
    let refused = members.silent(at(2), "it is not there", true);
    assert!(matches!(refused, Some(News::Gone(..))), "{refused:?}");
}

#[test]
fn one_that_leaves_asks_the_others() {
    let members = members(1, &[2]);
    members.leave(true);
    for key in (0..KEYS).map(|it| it.to_string()) {
        assert_eq!(owner(&members, &key), id(2), "{key}");
    }
}

#[test]
fn it_recognizes_itself_and_a_copy_of_itself() {
    let members = members(1, &[2]);
    assert_eq!(members.count(), 2);
    let states: Vec<_> = members.report().into_iter().map(|it| it.state).collect();
    assert_eq!(states, ["this", "up"]);
    members.listed(&[at(1), at(2), at(9)]);
    let copy = Hello {
        process: "another".to_owned(),
        ..hello(1)
    };
    let news = members.heard(at(9), copy.clone());
    assert!(
        matches!(&news, Some(News::Trouble(why)) if why.contains("state.dir")),
        "{news:?}"
    );
    assert_eq!(members.heard(at(9), copy), None, "it is told once");
    assert_eq!(members.count(), 2);
}

#[test]
fn a_node_with_two_addresses_is_one() {
    let members = members(1, &[2]);
    members.listed(&[at(1), at(2), at(3)]);
    members.heard(at(3), hello(2));
    assert_eq!(members.count(), 2);
    // It is asked at the other one when the first is gone.
    members.silent(at(2), "it is not there", true);
    assert_eq!(members.count(), 2);
    assert_eq!(
        members
            .before_me("x")
            .first()
            .map_or(at(3), |it| it.address),
        at(3)
    );
}

#[test]
fn an_address_that_is_listed_no_more_goes_with_its_node() {
    let members = members(1, &[2, 3]);
    members.listed(&[at(1), at(2)]);
    assert_eq!(members.count(), 3, "it answers still");
    members.silent(at(3), "it is not there", true);
    assert_eq!(members.addresses(), [at(1), at(2)]);
}

#[test]
fn addresses_are_bounded() {
    let members = members(1, &[]);
    let many: Vec<SocketAddr> = (0..2000).map(|port| ([10, 1, 1, 1], port).into()).collect();
    members.listed(&many);
    assert_eq!(members.addresses().len(), ADDRESSES_MAX);
}

#[test]
fn names_are_read_as_they_are_written() {
    let id = NodeId([0xa0; 16]);
    assert_eq!(NodeId::parse(&id.to_string()), Some(id));
    for text in [
        "",
        "a0",
        "+0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0",
        &"g".repeat(32),
    ] {
        assert_eq!(NodeId::parse(text), None, "{text}");
    }
}

#[test]
fn nodes_of_the_own_zone_are_asked_first_for_what_they_have() {
    let members = Members::new(id(1), "process 1".to_owned());
    let zones = [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b")];
    members.listed(&zones.map(|(number, _)| at(number)));
    for (number, zone) in zones {
        let zone = Some(zone.to_owned());
        members.heard(
            at(number),
            Hello {
                zone,
                ..hello(number)
            },
        );
    }
    let ids = |nodes: Vec<Arc<Node>>| nodes.iter().map(|it| it.id).collect::<Vec<_>>();
    let (mut own, mut near, mut far) = (0, 0, 0);
    for key in (0..100).map(|it| it.to_string()) {
        let asked = ids(members.near(&key, Some("a"), false));
        let order = ids(members.before_me(&key));
        match order.first() {
            // This one is the owner: whatever the others have need not come from the upstream.
            None => {
                own += 1;
                assert_eq!(asked.len(), 4);
                assert!(asked[..2].iter().all(|it| [id(2), id(3)].contains(it)));
            }
            // The owner is near: it is asked for the blob itself.
            Some(owner) if [id(2), id(3)].contains(owner) => {
                near += 1;
                assert_eq!(asked, []);
            }
            Some(_) => {
                far += 1;
                let mut asked = asked;
                asked.sort();
                assert_eq!(asked, [id(2), id(3)]);
            }
        }
        // Without zones all are near.
        assert_eq!(
            members.near(&key, None, false).is_empty(),
            !order.is_empty()
        );
        // A node that another one waits for asks anybody for what is there.
        assert_eq!(members.near(&key, Some("a"), true).len(), 4);
    }
    assert!(own > 0 && near > 0 && far > 0);
}
