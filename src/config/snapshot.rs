//! The configuration in use, behind one swap.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::access::{Access, Map};

use super::Config;
use super::table::join;
use crate::mirror;
use crate::server::transparent::TransparentConfig;

/// Tables whose keys are read anew by each request. All others need a restart.
const READ_ANEW: &[&str] = &["access.", "access", "tags."];

/// The table that is taken over where there was one before.
const TRANSPARENT: &str = "server.transparent.";

/// The configuration in use. Whoever reads it for each request sees a new one as a whole, from one moment on. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct Snapshot(Arc<ArcSwap<Config>>);

/// The effect of a new configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that hold from now on.
    pub applied: Vec<String>,
    /// Keys that hold after a restart.
    pub after_restart: Vec<String>,
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

    /// Takes over what can change while requests run. The rest stays, and so says what is in use.
    #[must_use]
    pub fn replace(&self, new: &Config) -> Changes {
        let old = self.now();
        let mut changes = Changes::default();
        // Where it begins or ends, listeners speak TLS that did not, or the other way round.
        let stays_transparent = transparent(&old).is_some() && transparent(new).is_some();
        for key in changed(&old, new) {
            let is_read_anew = READ_ANEW.iter().any(|table| key.starts_with(table))
                || (stays_transparent && key.starts_with(TRANSPARENT));
            let list = if is_read_anew {
                &mut changes.applied
            } else {
                &mut changes.after_restart
            };
            list.push(key);
        }
        if !changes.applied.is_empty() {
            let tags = mirror::Config {
                pins: old.tags.pins.clone(),
                ..new.tags.clone()
            };
            let mut server = old.server.clone();
            if let (true, Some(tls)) = (stays_transparent, &mut server.tls) {
                tls.transparent = transparent(new).cloned();
            }
            self.0.store(Arc::new(Config {
                server,
                tags,
                access: new.access.clone(),
                ..Config::clone(&old)
            }));
        }
        changes
    }
}

fn transparent(config: &Config) -> Option<&TransparentConfig> {
    config.server.tls.as_ref()?.transparent.as_ref()
}

/// The keys that say something else.
fn changed(old: &Config, new: &Config) -> Vec<String> {
    let (was, is) = (keys(old), keys(new));
    let both = was
        .keys()
        .chain(is.keys().filter(|key| !was.contains_key(*key)));
    let mut changed: Vec<String> = both
        .filter(|key| was.get(*key) != is.get(*key))
        .cloned()
        .collect();
    // The printed text has no secrets in it.
    for upstream in &new.upstreams {
        let name = upstream.name.as_str();
        let before = old
            .upstreams
            .iter()
            .find(|other| other.name == upstream.name);
        let path = format!("upstream.{name:?}.");
        let is_told = changed.iter().any(|key| key.starts_with(&path));
        if !is_told && before.is_some_and(|before| before != upstream) {
            changed.push(format!("upstream.{name:?}.credentials"));
        }
    }
    changed.sort();
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

    #[test]
    fn what_can_change_does_and_the_rest_is_named() {
        let snapshot = Snapshot::new(config(&[]));
        let tags = snapshot.part(|config| &config.tags);
        let new = config(&[
            ("ROADSTEAD_TAGS__TTL", "5m"),
            ("ROADSTEAD_CACHE__MAX_SIZE", "1GB"),
            ("ROADSTEAD_UPSTREAM__GHCR_IO__PARALLEL", "2"),
        ]);
        let changes = snapshot.replace(&new);
        assert_eq!(changes.applied, ["tags.ttl"]);
        let after_restart = ["cache.max_size", "upstream.\"ghcr.io\".parallel"];
        assert_eq!(changes.after_restart, after_restart);
        assert_eq!(tags.load().defaults, new.tags.defaults);
        assert_eq!(
            snapshot.now().cache,
            config(&[]).cache,
            "it says what is in use"
        );
        // Once more: what needs a restart still does.
        let changes = snapshot.replace(&new);
        assert_eq!((changes.applied.len(), changes.after_restart.len()), (0, 2));
    }

    #[test]
    fn transparent_mode_changes_while_it_is_there() {
        let named = |name| config(&[("ROADSTEAD_SERVER__TRANSPARENT__NAMES", name)]);
        let snapshot = Snapshot::new(named("quay.io"));
        let changes = snapshot.replace(&named("ghcr.io,quay.io"));
        assert_eq!(changes.applied, ["server.transparent.names"]);
        assert!(changes.after_restart.is_empty(), "{changes:?}");
        assert_eq!(*snapshot.now(), named("ghcr.io,quay.io"));
        // Listeners do not begin or cease to speak TLS.
        for (before, after) in [
            (named("quay.io"), config(&[])),
            (config(&[]), named("quay.io")),
        ] {
            let snapshot = Snapshot::new(before.clone());
            let changes = snapshot.replace(&after);
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
        let changes = Snapshot::new(login("one")).replace(&login("two"));
        assert_eq!(changes.after_restart, ["upstream.\"ghcr.io\".credentials"]);
    }

    #[test]
    fn a_reader_in_the_middle_keeps_what_it_has() {
        let snapshot = Snapshot::new(config(&[]));
        let tags = snapshot.part(|config| &config.tags);
        let guard = tags.load();
        let before = guard.defaults;
        let changes = snapshot.replace(&config(&[("ROADSTEAD_TAGS__TTL", "forever")]));
        assert_eq!(changes.applied, ["tags.ttl"]);
        assert_eq!(guard.defaults, before);
        assert_eq!(tags.load().defaults.ttl, Ttl::Forever);
    }
}
