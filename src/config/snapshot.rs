//! The configuration in use, behind one swap.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::access::{Access, Map};

use super::Config;
use super::table::join;
use crate::mirror;
use crate::server::KeyChange;

/// Keys, and tables of keys, that hold from a reload on. All others need a restart.
const TAKEN_OVER: &[&str] = &[
    "access",
    "access.",
    "tags.",
    "upstream.",
    "cache.max_size",
    "cache.min_free",
    "cache.max_age",
    "log.level",
    "telemetry.",
];

/// The configuration in use. Whoever reads it for each request sees a new one as a whole, from one moment on. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct Snapshot(Arc<ArcSwap<Config>>);

/// The effect of a new configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that hold from now on.
    pub applied: Vec<KeyChange>,
    /// Keys that hold after a restart.
    pub after_restart: Vec<KeyChange>,
}

impl Snapshot {
    /// The configuration of a start.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    /// The configuration that is in use now.
    #[must_use]
    pub fn now(&self) -> Arc<Config> {
        self.0.load_full()
    }

    /// A part, for a component that knows no other.
    pub fn part<T: 'static>(
        &self,
        part: fn(&Config) -> &T,
    ) -> impl Access<T, Guard: 'static> + Send + Sync + 'static {
        Map::new(Arc::clone(&self.0), part)
    }

    /// The effect that a configuration would have.
    #[must_use]
    pub fn compare(&self, new: &Config) -> Changes {
        let old = self.now();
        let tables = tables_taken_over(&old, new);
        let is_taken_over = |change: &KeyChange| {
            let mut all = TAKEN_OVER.iter().chain(&tables);
            all.any(|key| change.key == *key || (key.ends_with('.') && change.key.starts_with(key)))
        };
        let (applied, after_restart) = changed(&old, new).into_iter().partition(is_taken_over);
        Changes {
            applied,
            after_restart,
        }
    }

    /// Takes over what can change while requests run. The rest stays, and so says what is in use.
    pub fn replace(&self, new: &Config) {
        let old = self.now();
        let mut server = old.server.clone();
        let tables = tables_taken_over(&old, new);
        if let (Some(before), Some(tls)) = (&mut server.tls, &new.server.tls) {
            let transparent = before.transparent.take();
            *before = tls.clone();
            if !tables.contains(&TRANSPARENT) {
                before.transparent = transparent;
            }
        }
        if let (Some(before), Some(tls)) = (&mut server.admin_tls, &new.server.admin_tls) {
            *before = tls.clone();
        }
        self.0.store(Arc::new(Config {
            server,
            tags: mirror::Config {
                pins: old.tags.pins.clone(),
                ..new.tags.clone()
            },
            cache: crate::store::Config {
                max_size: new.cache.max_size,
                min_free: new.cache.min_free,
                max_age: new.cache.max_age,
                shares: new.cache.shares.clone(),
                ..old.cache.clone()
            },
            access: new.access.clone(),
            upstreams: new.upstreams.clone(),
            log_level: new.log_level.clone(),
            otlp: new.otlp.clone(),
            hosted: if tables.contains(&HOSTED) {
                new.hosted.clone()
            } else {
                old.hosted.clone()
            },
            ..Config::clone(&old)
        }));
    }
}

/// The tables of TLS: where there is one before and after. Listeners do not begin or cease to speak it.
const TLS: &str = "server.tls.";
const ADMIN_TLS: &str = "server.admin_tls.";
const TRANSPARENT: &str = "server.transparent.";
/// Hosted repositories: where they are served before and after.
const HOSTED: &str = "hosted.";

/// The tables that are taken over only if they were there before.
fn tables_taken_over(old: &Config, new: &Config) -> Vec<&'static str> {
    let both = |is_there: fn(&Config) -> bool| is_there(old) && is_there(new);
    let tables = [
        (TLS, both(|it| it.server.tls.is_some())),
        (
            HOSTED,
            both(|it| it.hosted.as_ref().is_some_and(|hosted| hosted.enabled)),
        ),
        (ADMIN_TLS, both(|it| it.server.admin_tls.is_some())),
        (
            TRANSPARENT,
            both(|it| {
                it.server
                    .tls
                    .as_ref()
                    .is_some_and(|tls| tls.transparent.is_some())
            }),
        ),
    ];
    let kept = tables.into_iter().filter(|(_, is_kept)| *is_kept);
    kept.map(|(table, _)| table).collect()
}

/// The keys that say something else.
fn changed(old: &Config, new: &Config) -> Vec<KeyChange> {
    let (was, is) = (keys(old), keys(new));
    let both = was
        .keys()
        .chain(is.keys().filter(|key| !was.contains_key(*key)));
    let mut changed: Vec<KeyChange> = both
        .filter(|key| was.get(*key) != is.get(*key))
        .map(|key| KeyChange {
            key: key.clone(),
            before: was.get(key).cloned(),
            now: is.get(key).cloned(),
        })
        .collect();
    // The printed text has no secrets in it.
    for upstream in &new.upstreams {
        let name = upstream.name.as_str();
        let before = old
            .upstreams
            .iter()
            .find(|other| other.name == upstream.name);
        let path = format!("upstream.{name:?}.");
        let is_told = changed.iter().any(|it| it.key.starts_with(&path));
        if !is_told && before.is_some_and(|before| before != upstream) {
            changed.push(KeyChange {
                key: format!("upstream.{name:?}.credentials"),
                before: None,
                now: None,
            });
        }
    }
    let of_otlp = "telemetry.otlp.";
    let is_told = changed.iter().any(|it| it.key.starts_with(of_otlp));
    if !is_told && old.otlp != new.otlp {
        changed.push(KeyChange {
            key: format!("{of_otlp}headers"),
            before: None,
            now: None,
        });
    }
    changed.sort_by(|one, other| one.key.cmp(&other.key));
    changed
}

/// The text that `check` prints of each key.
fn keys(config: &Config) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    // The printed text can be read back; a test holds that.
    let table: toml::Table = config.to_toml().parse().unwrap_or_default();
    collect("", &toml::Value::Table(table), &mut keys);
    keys
}

fn collect(path: &str, value: &toml::Value, keys: &mut BTreeMap<String, String>) {
    if let toml::Value::Table(table) = value {
        for (key, value) in table {
            // An upstream's name is quoted, whatever it is.
            let path = match path {
                "upstream" => format!("upstream.{key:?}"),
                _ => join(path, key),
            };
            collect(&path, value, keys);
        }
    } else {
        keys.insert(path.to_owned(), value.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;
    use crate::mirror::Ttl;

    fn config(variables: &[(&str, &str)]) -> Config {
        let variables = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        Config::from_layers(&Overrides::default(), variables, &[]).unwrap()
    }

    fn names(changes: &[KeyChange]) -> Vec<&str> {
        changes.iter().map(|it| it.key.as_str()).collect()
    }

    fn replace(snapshot: &Snapshot, new: &Config) -> Changes {
        let changes = snapshot.compare(new);
        snapshot.replace(new);
        changes
    }

    #[test]
    fn what_can_change_does_and_the_rest_is_named() {
        let snapshot = Snapshot::new(config(&[]));
        let tags = snapshot.part(|config| &config.tags);
        let new = config(&[
            ("ROADSTEAD_TAGS__TTL", "5m"),
            ("ROADSTEAD_CACHE__MAX_SIZE", "1GB"),
            ("ROADSTEAD_UPSTREAM__GHCR_IO__PARALLEL", "2"),
            ("ROADSTEAD_LOG__LEVEL", "debug"),
            ("ROADSTEAD_LOG__FORMAT", "json"),
            ("ROADSTEAD_CACHE__SCRUB", "90d"),
        ]);
        let changes = replace(&snapshot, &new);
        let applied = [
            "cache.max_size",
            "log.level",
            "tags.ttl",
            "upstream.\"ghcr.io\".parallel",
        ];
        assert_eq!(names(&changes.applied), applied);
        assert_eq!(names(&changes.after_restart), ["cache.scrub", "log.format"]);
        let ttl = changes.applied.iter().find(|it| it.key == "tags.ttl");
        let ttl = ttl.map(|it| (it.before.as_deref(), it.now.as_deref()));
        assert_eq!(ttl, Some((Some("\"1m\""), Some("\"5m\""))));
        assert_eq!(tags.load().defaults, new.tags.defaults);
        let now = snapshot.now();
        assert_eq!(now.upstreams, new.upstreams);
        assert_eq!(now.cache.max_size, new.cache.max_size);
        assert_eq!(
            now.cache.scrub,
            config(&[]).cache.scrub,
            "it says what is in use"
        );
        // Once more: what needs a restart still does.
        let changes = replace(&snapshot, &new);
        assert_eq!((changes.applied.len(), changes.after_restart.len()), (0, 2));
    }

    #[test]
    fn transparent_mode_changes_while_it_is_there() {
        let named = |name| config(&[("ROADSTEAD_SERVER__TRANSPARENT__NAMES", name)]);
        let snapshot = Snapshot::new(named("quay.io"));
        let changes = replace(&snapshot, &named("ghcr.io,quay.io"));
        assert_eq!(names(&changes.applied), ["server.transparent.names"]);
        assert!(changes.after_restart.is_empty(), "{changes:?}");
        assert_eq!(*snapshot.now(), named("ghcr.io,quay.io"));
        // Listeners do not begin or cease to speak TLS.
        for (before, after) in [
            (named("quay.io"), config(&[])),
            (config(&[]), named("quay.io")),
        ] {
            let snapshot = Snapshot::new(before.clone());
            let changes = replace(&snapshot, &after);
            assert!(changes.applied.is_empty() && !changes.after_restart.is_empty());
            assert_eq!(*snapshot.now(), before);
        }
    }

    #[test]
    fn a_changed_password_is_noticed_and_not_told() {
        let login = |password| {
            config(&[
                ("ROADSTEAD_UPSTREAM__GHCR_IO__USERNAME", "u"),
                ("ROADSTEAD_UPSTREAM__GHCR_IO__PASSWORD", password),
            ])
        };
        let changes = Snapshot::new(login("one")).compare(&login("two"));
        assert_eq!(
            names(&changes.applied),
            ["upstream.\"ghcr.io\".credentials"]
        );
        assert!(!format!("{changes:?}").contains("two"), "{changes:?}");
    }

    #[test]
    fn a_reader_in_the_middle_keeps_what_it_has() {
        let snapshot = Snapshot::new(config(&[]));
        let tags = snapshot.part(|config| &config.tags);
        let guard = tags.load();
        let before = guard.defaults;
        let changes = replace(&snapshot, &config(&[("ROADSTEAD_TAGS__TTL", "forever")]));
        assert_eq!(names(&changes.applied), ["tags.ttl"]);
        assert_eq!(guard.defaults, before);
        assert_eq!(tags.load().defaults.ttl, Ttl::Forever);
    }
}
