//! Names of keys that were others before. An old name goes on working, with a warning that says the new one, until the
//! second minor version after the one that renamed it.

use toml::de::{DeTable, DeValue};

use super::layers::Layers;
use super::origin::Origin;
use super::table::{in_order, join};

/// A key that has another name now.
pub(super) struct Renamed {
    /// Its old path; `*` stands for any name, such as an upstream's.
    pub(super) old: &'static [&'static str],
    /// Its last part now.
    pub(super) new: &'static str,
    /// The version in which the old name is a mistake.
    pub(super) until: &'static str,
}

/// The keys that were renamed. None was yet.
pub(super) const KEYS: &[Renamed] = &[];

/// Gives every key of the file its new name, and notes those that had the old one. Where both are there, the old one is
/// left, to be refused as unknown.
pub(super) fn rename(layers: &mut Layers<'_>, keys: &[Renamed]) {
    let mut notes = Vec::new();
    for key in keys {
        let Some((old, tables)) = key.old.split_last() else {
            continue;
        };
        in_tables(&mut layers.table, tables, "", &mut |table, path| {
            if table.contains_key(key.new) {
                return;
            }
            let Some((mut name, value)) = table.remove_entry(*old) else {
                return;
            };
            let (was, is) = (join(path, old), join(path, key.new));
            let note = format!(
                "{was}: is called {is} now; the old name works until version {}",
                key.until
            );
            notes.push((Origin::File(name.span().start), note));
            *name.get_mut() = key.new.into();
            table.insert(name, value);
        });
    }
    layers.notes.extend(notes);
}

/// The name of a variable now whose key was renamed, without the prefix, and the version in which the old one is a
/// mistake.
pub(super) fn variable(name: &str, keys: &[Renamed]) -> Option<(String, &'static str)> {
    let parts: Vec<String> = name.split("__").map(str::to_ascii_lowercase).collect();
    let is_old = |key: &&Renamed| {
        let same = |(old, part): (&&str, &String)| *old == "*" || old == part;
        key.old.len() == parts.len() && key.old.iter().zip(&parts).all(same)
    };
    let key = keys.iter().find(is_old)?;
    let (tables, _) = name.rsplit_once("__")?;
    Some((
        format!("{tables}__{}", key.new.to_ascii_uppercase()),
        key.until,
    ))
}

/// Does this with every table at a path, those in arrays included.
fn in_tables<'i>(
    table: &mut DeTable<'i>,
    path: &[&str],
    at: &str,
    work: &mut dyn FnMut(&mut DeTable<'i>, &str),
) {
    let Some((name, rest)) = path.split_first() else {
        return work(table, at);
    };
    let names = in_order(table);
    let names = names.iter().map(|(key, _)| key.get_ref().to_string());
    let names: Vec<String> = names.filter(|key| ["*", key].contains(name)).collect();
    for name in names {
        let at = join(at, &name);
        let Some(value) = table.get_mut(name.as_str()) else {
            continue;
        };
        if let DeValue::Table(inner) = value.get_mut() {
            in_tables(inner, rest, &at, work);
        } else if let DeValue::Array(items) = value.get_mut() {
            for item in items.iter_mut() {
                if let DeValue::Table(inner) = item.get_mut() {
                    in_tables(inner, rest, &at, work);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;
    use crate::config::environment::Environment;
    use crate::config::origin::Origins;

    /// Made up.
    const KEYS: &[Renamed] = &[
        Renamed {
            old: &["cache", "size"],
            new: "max_size",
            until: "0.4",
        },
        Renamed {
            old: &["upstream", "*", "endpoints", "address"],
            new: "resolve",
            until: "0.4",
        },
    ];

    fn renamed(text: &str) -> (String, Vec<String>) {
        let mut layers = Layers::lay(
            DeTable::parse(text).unwrap().into_inner(),
            Origins::new(text),
            &Environment::new([]),
            &Overrides::default(),
        );
        rename(&mut layers, KEYS);
        let notes = layers.notes.iter();
        let notes = notes.map(|(origin, note)| format!("{origin:?} {note}"));
        (format!("{:?}", layers.table), notes.collect())
    }

    #[test]
    fn an_old_name_works_and_is_told() {
        let (table, notes) = renamed("[cache]\nsize = 1\n");
        assert!(
            table.contains("\"max_size\"") && !table.contains("\"size\""),
            "{table}"
        );
        assert_eq!(
            notes,
            [
                "File(8) cache.size: is called cache.max_size now; the old name works until version 0.4"
            ]
        );
        let text = "[upstream.\"a.io\"]\nendpoints = [\"https://b\", { url = \"https://a\", address = \"::1\" }]\n";
        let (table, notes) = renamed(text);
        assert!(table.contains("\"resolve\""), "{table}");
        assert_eq!(notes.len(), 1, "{notes:?}");
    }

    #[test]
    fn what_is_there_under_both_names_is_left() {
        let (table, notes) = renamed("[cache]\nsize = 1\nmax_size = 2\n");
        assert!(table.contains("\"size\""), "{table}");
        assert!(notes.is_empty(), "{notes:?}");
    }

    #[test]
    fn variables_have_old_names_too() {
        let now = |name| variable(name, KEYS).map(|(now, _)| now);
        assert_eq!(now("CACHE__SIZE").as_deref(), Some("CACHE__MAX_SIZE"));
        assert_eq!(now("CACHE__MAX_SIZE"), None);
        assert_eq!(now("CACHE"), None);
    }
}
