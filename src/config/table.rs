//! Tables of the file, read key by key into typed fields.
//!
//! `table!` declares a table once: its keys, their kinds, and what each means. The struct, the refusal of unknown
//! keys, the JSON Schema and the reference of keys all come from it. It is no serde derive because that stops at the
//! first error, and everything that is wrong with a file is to be said at once.
//!
//! Nothing here implements `Debug`: a value may be a password.

use std::cell::RefCell;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::Environment;
use super::error::{Problem, suggestion};
use super::origin::{Origin, Origins};

/// A value as the parser gives it.
pub(super) type Written<'i> = Spanned<DeValue<'i>>;
/// The value of a key of a kind, if it was given and makes sense.
pub(super) type Field<K> = Option<Given<<K as Read>::Value>>;
/// A result whose error has been reported already.
pub(super) type Outcome<T> = Result<T, Reported>;

/// The error is in the report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reported;

/// A value that was given, and where.
#[derive(Clone)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// A key's path, and where its value was written.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) origin: Origin,
}

/// A kind of value.
pub(super) trait Read {
    /// Its values.
    type Value;
    /// The keys inside of it, if it has any.
    const KEYS: &'static [Key] = &[];

    /// Reads one. What is wrong with it is reported.
    fn read(written: &Written<'_>, place: &Place, context: &Context<'_>) -> Outcome<Self::Value>;

    /// The JSON Schema of what may be written.
    fn schema() -> Json;
}

/// A kind of value that is not made of others.
pub(super) trait Scalar {
    /// Its values.
    type Value;

    /// The value, or what is wrong with it.
    fn parse(written: &DeValue<'_>) -> Result<Self::Value, String>;

    /// The JSON Schema of what may be written.
    fn schema() -> Json;
}

impl<K: Scalar> Read for K {
    type Value = K::Value;

    fn read(written: &Written<'_>, place: &Place, context: &Context<'_>) -> Outcome<K::Value> {
        K::parse(written.get_ref()).map_err(|why| context.wrong(place, why))
    }
    fn schema() -> Json {
        K::schema()
    }
}

/// A key of a table.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// Its meaning, in Markdown.
    pub(super) about: &'static str,
    pub(super) schema: fn() -> Json,
    /// The keys inside of it.
    pub(super) keys: &'static [Key],
}

/// The keys that a table had.
#[derive(Clone, Default)]
pub(super) struct Keys {
    /// The table itself.
    pub(super) place: Place,
    /// Known keys, those with a wrong value included.
    pub(super) given: Vec<(&'static str, Place)>,
    /// Names that no key has.
    pub(super) unknown: Vec<(String, Place)>,
}

/// The environment and the origins while a configuration is read, and all that is wrong with it.
pub(super) struct Context<'a> {
    pub(super) environment: &'a Environment,
    pub(super) origins: Origins,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(environment: &'a Environment, origins: Origins) -> Self {
        Self {
            environment,
            origins,
            problems: RefCell::default(),
        }
    }

    /// Reports what is wrong with a value.
    pub(super) fn wrong(&self, place: &Place, why: impl Into<String>) -> Reported {
        self.report(Problem::new(&place.origin, &place.key, why))
    }

    /// Reports a problem.
    pub(super) fn report(&self, problem: Problem) -> Reported {
        self.problems.borrow_mut().push(problem);
        Reported
    }

    /// All that was reported.
    pub(super) fn problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    /// Reports the keys that a table does not know.
    pub(super) fn refuse_unknown(&self, keys: &Keys, known: &[&str]) {
        for (name, place) in &keys.unknown {
            self.unknown(name, place, known);
        }
    }

    fn unknown(&self, name: &str, place: &Place, known: &[&str]) {
        let known_names = match known {
            [one] => format!("`{one}`"),
            [one, other] => format!("`{one}` or `{other}`"),
            _ => format!("one of `{}`", known.join("`, `")),
        };
        let why = match suggestion(name, known.iter().copied()) {
            Some(meant) => {
                format!("unknown key, did you mean `{meant}`? Expected {known_names}")
            }
            None => format!("unknown key, expected {known_names}"),
        };
        self.wrong(place, why);
    }
}

impl Default for Place {
    fn default() -> Self {
        Self {
            key: String::new(),
            origin: Origin::Default,
        }
    }
}

impl Place {
    /// The place of a key in this table.
    pub(super) fn under(&self, key: &str, origin: Origin) -> Self {
        Self {
            key: join(&self.key, key),
            origin,
        }
    }

    /// Another place of the same key.
    pub(super) fn at(&self, origin: Origin) -> Self {
        Self {
            key: self.key.clone(),
            origin,
        }
    }
}

impl Keys {
    /// The place of a key that was written.
    pub(super) fn place_of(&self, name: &str) -> Option<&Place> {
        let mut given = self.given.iter();
        given.find(|(known, _)| *known == name).map(|it| &it.1)
    }

    /// A key that must be there. One that is not is reported, and why it is needed; one with a wrong value was.
    pub(super) fn required<'g, T>(
        &self,
        given: Option<&'g Given<T>>,
        name: &str,
        why: &str,
        context: &Context<'_>,
    ) -> Outcome<&'g Given<T>> {
        given.ok_or_else(|| match self.place_of(name) {
            Some(_) => Reported,
            None => context.wrong(&self.place.under(name, self.place.origin.clone()), why),
        })
    }

    /// Reports every key that is none of these.
    pub(super) fn only(&self, known: &[&str], context: &Context<'_>) -> Outcome<()> {
        context.refuse_unknown(self, known);
        let strange = |(name, _): &&(&'static str, Place)| !known.contains(name);
        let strange: Vec<_> = self.given.iter().filter(strange).collect();
        for (name, place) in &strange {
            context.unknown(name, place, known);
        }
        if strange.is_empty() && self.unknown.is_empty() {
            return Ok(());
        }
        Err(Reported)
    }

    /// The one way that was used of several to say something. One in a stronger layer wins over another in a weaker;
    /// two in one layer are an error. A way may take several keys.
    pub(super) fn one_of(
        &self,
        ways: &[&[&'static str]],
        context: &Context<'_>,
    ) -> Outcome<Option<(&'static str, &Place)>> {
        let mut chosen: Option<(&'static str, &Place)> = None;
        for way in ways {
            let given = way.iter().rev();
            let given = given.filter_map(|name| Some((*name, self.place_of(name)?)));
            let Some((name, place)) = given.max_by_key(|(_, place)| place.origin.layer()) else {
                continue;
            };
            let layer = place.origin.layer();
            match chosen {
                Some((_, other)) if other.origin.layer() > layer => {}
                Some((first, other)) if other.origin.layer() == layer => {
                    let why = format!("{first} is given too; only one of them can be");
                    let problem = Problem::new(&place.origin, &place.key, why);
                    return Err(context.report(problem.and(&other.origin)));
                }
                Some(_) | None => chosen = Some((name, place)),
            }
        }
        Ok(chosen)
    }
}

/// A value, or what holds where none was given.
pub(super) trait Values<T> {
    /// The value, or else this.
    fn value_or(&self, default: T) -> T;
    /// The value, if there is one.
    fn value(&self) -> Option<T>;
}

impl<T: Clone> Values<T> for Option<Given<T>> {
    fn value_or(&self, default: T) -> T {
        self.value().unwrap_or(default)
    }
    fn value(&self) -> Option<T> {
        self.as_ref().map(|given| given.value.clone())
    }
}

/// Several values of a kind, each with its place.
pub(super) struct List<K>(K);

impl<K: Read + About> Read for List<K> {
    type Value = Vec<Given<K::Value>>;
    const KEYS: &'static [Key] = K::KEYS;

    fn read(written: &Written<'_>, place: &Place, context: &Context<'_>) -> Outcome<Self::Value> {
        let DeValue::Array(items) = written.get_ref() else {
            return Err(context.wrong(place, K::about_list()));
        };
        if items.len() > K::MAX {
            return Err(context.wrong(place, K::too_many()));
        }
        let mut list = Vec::with_capacity(items.len());
        let mut outcome = Ok(());
        for item in items {
            let place = place.at(context.origins.of(item.span().start));
            match read::<K>(item, place, context) {
                Ok(given) => list.push(given),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| list)
    }
    fn schema() -> Json {
        serde_json::json!({ "type": "array", "items": K::schema() })
    }
}

/// A kind of which there are lists.
pub(super) trait About {
    /// The most of them in a list.
    const MAX: usize = usize::MAX;

    /// The way to write a list of them, for what is none.
    fn about_list() -> String;

    /// The fault of more than [`About::MAX`].
    fn too_many() -> String {
        format!("has more than {} entries", Self::MAX)
    }
}

/// One value of a kind, or an array of them.
pub(super) struct OneOrMore<K>(K);

impl<K: Read> Read for OneOrMore<K> {
    type Value = Vec<K::Value>;

    fn read(written: &Written<'_>, place: &Place, context: &Context<'_>) -> Outcome<Self::Value> {
        let items = items_of(written);
        let one = |item: &&Written<'_>| {
            let place = place.at(context.origins.of(item.span().start));
            K::read(item, &place, context)
        };
        items.iter().map(one).collect()
    }
    fn schema() -> Json {
        let one = K::schema();
        serde_json::json!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// The items of an array, or else the value itself.
pub(super) fn items_of<'w, 'i>(written: &'w Written<'i>) -> Vec<&'w Written<'i>> {
    let items = written.get_ref().as_array();
    items.map_or_else(|| vec![written], |items| items.iter().collect())
}

/// Reads a value of a kind.
pub(super) fn read<K: Read>(
    written: &Written<'_>,
    place: Place,
    context: &Context<'_>,
) -> Outcome<Given<K::Value>> {
    let value = K::read(written, &place, context)?;
    Ok(Given { value, place })
}

/// A table's entries in the order of the file; the parser sorts them by name.
pub(super) fn in_order<'t, 'i>(
    table: &'t DeTable<'i>,
) -> Vec<(&'t Spanned<std::borrow::Cow<'i, str>>, &'t Written<'i>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Appends a key to a path, quoted where TOML demands it.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let key = if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    match path {
        "" => key,
        _ => format!("{path}.{key}"),
    }
}

/// A key's name where it is no name of a field: `pattern as "match"`.
macro_rules! name {
    ($key:ident) => {
        stringify!($key)
    };
    ($key:ident $name:literal) => {
        $name
    };
}

/// Declares a table of the file.
macro_rules! table {
    ($(#[doc = $summary:literal])+ $table:ident {
        $($(#[doc = $about:literal])+ $key:ident $(as $name:literal)?: $kind:ty,)+
    }) => {
        $(#[doc = $summary])+
        #[derive(Clone, Default)]
        pub(in crate::config) struct $table {
            $($(#[doc = $about])+ pub(in crate::config) $key: $crate::config::table::Field<$kind>,)+
            /// The keys that were given.
            pub(in crate::config) keys: $crate::config::table::Keys,
        }

        impl $table {
            /// Its keys, in the order in which they are told.
            pub(in crate::config) const KEYS: &'static [$crate::config::table::Key] = &[
                $($crate::config::table::Key {
                    name: name!($key $($name)?),
                    about: concat!($($about),+),
                    schema: <$kind as $crate::config::table::Read>::schema,
                    keys: <$kind as $crate::config::table::Read>::KEYS,
                }),+
            ];
            /// Their names.
            pub(in crate::config) const NAMES: &'static [&'static str] = &[$(name!($key $($name)?)),+];

            /// Reads the keys that are known. The others are noted, and not reported.
            pub(in crate::config) fn read_keys(
                written: &$crate::config::table::Written<'_>,
                place: &$crate::config::table::Place,
                context: &$crate::config::table::Context<'_>,
            ) -> $crate::config::table::Outcome<Self> {
                let toml::de::DeValue::Table(entries) = written.get_ref() else {
                    return Err(context.wrong(place, "must be a table"));
                };
                let mut table = Self::default();
                table.keys.place = place.clone();
                for (key, value) in $crate::config::table::in_order(entries) {
                    let name = key.get_ref().as_ref();
                    let place = place.under(name, context.origins.of(value.span().start));
                    match name {
                        $(name!($key $($name)?) => {
                            table.keys.given.push((name!($key $($name)?), place.clone()));
                            table.$key = $crate::config::table::read::<$kind>(value, place, context).ok();
                        })+
                        _ => {
                            let place = place.at(context.origins.of(key.span().start));
                            table.keys.unknown.push((name.to_owned(), place));
                        }
                    }
                }
                Ok(table)
            }
        }

        impl $crate::config::table::Read for $table {
            type Value = Self;
            const KEYS: &'static [$crate::config::table::Key] = Self::KEYS;

            fn read(
                written: &$crate::config::table::Written<'_>,
                place: &$crate::config::table::Place,
                context: &$crate::config::table::Context<'_>,
            ) -> $crate::config::table::Outcome<Self> {
                let table = Self::read_keys(written, place, context)?;
                context.refuse_unknown(&table.keys, Self::NAMES);
                Ok(table)
            }
            fn schema() -> serde_json::Value {
                $crate::config::schema::of_table(Self::KEYS)
            }
        }
    };
}

/// Declares kinds of text that a function reads, with a pattern for editors.
macro_rules! texts {
    ($($(#[$meta:meta])+ $kind:ident: $value:ty = $parse:expr, $pattern:literal;)+) => {$(
        $(#[$meta])+
        pub(in crate::config) enum $kind {}

        impl $crate::config::table::Scalar for $kind {
            type Value = $value;

            fn parse(written: &toml::de::DeValue<'_>) -> Result<$value, String> {
                let text = written.as_str().ok_or("must be text")?;
                $parse(text)
            }
            fn schema() -> serde_json::Value {
                serde_json::json!({ "type": "string", "pattern": $pattern })
            }
        }
    )+};
}

pub(super) use {name, table, texts};
