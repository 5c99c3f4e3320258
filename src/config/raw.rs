//! The configuration as it was written: every key optional, every value with where it came from.
//!
//! serde refuses unknown keys and hands over the place of each value; whether a value makes sense is
//! decided when the layers (defaults, file, environment, flags) have been laid over each other.
//! Nothing here implements `Debug`: a value may be a password.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

/// Declares a table of the file: the serde struct, the names of its keys, and access by name.
macro_rules! table {
    ($(#[$meta:meta])* $name:ident { $($key:ident),+ $(,)? } $(with $inner:ident: $kind:ty)?) => {
        $(#[$meta])*
        #[derive(Clone, Default, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $name {
            $(pub(super) $key: Option<Leaf>,)+
            $(pub(super) $inner: $kind,)?
        }

        impl $name {
            /// The keys of this table, sub-tables left out.
            pub(super) const KEYS: &'static [&'static str] = &[$(stringify!($key)),+];

            /// The place of a key's value.
            pub(super) fn slot(&mut self, key: &str) -> Option<&mut Option<Leaf>> {
                match key {
                    $(stringify!($key) => Some(&mut self.$key),)+
                    _ => None,
                }
            }

            /// A key's value.
            #[allow(dead_code, reason = "only the upstreams are read by the names of their keys")]
            pub(super) fn leaf(&self, key: &str) -> Option<&Leaf> {
                match key {
                    $(stringify!($key) => self.$key.as_ref(),)+
                    _ => None,
                }
            }
        }
    };
}

/// The whole file.
#[derive(Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    pub(super) server: Server,
    pub(super) cache: Cache,
    pub(super) tags: Tags,
    pub(super) log: Log,
    pub(super) upstream: Upstreams,
}

table! {
    /// `[server]`.
    Server {
        listen, admin_listen, drain_timeout,
        max_connections, head_timeout, idle_timeout, body_stall_timeout, body_min_rate,
    } with tls: Option<Spanned<Tls>>
}
table! {
    /// `[server.tls]`.
    Tls { cert, key }
}
table! {
    /// `[cache]`.
    Cache { dir, max_size, min_free, max_age, fill_on_range, scrub } with pin: Option<Leaf>
}
table! {
    /// `[tags]`.
    Tags {
        ttl, revalidate, stale_if_error, stale_on, keep_deleted, negative_ttl,
    } with rule: Option<Leaf>
}
table! {
    /// `[log]`.
    Log { format, level }
}
table! {
    /// `[upstream."NAME"]`.
    Upstream {
        endpoints, default, hosts, strategy, proxy,
        username, username_file, username_env, password, password_file, password_env,
        docker_config, credentials,
        max_connections, connect_timeout, header_timeout, idle_timeout, retry_delay,
        parallel, parallel_above, segment_size, max_size, max_age,
    }
}

/// The keys of a `[[tags.rule]]`: those of `[tags]`, and which tags it is about.
pub(super) const RULE_KEYS: &[&str] = &[
    "match",
    "ttl",
    "revalidate",
    "stale_if_error",
    "stale_on",
    "keep_deleted",
    "negative_ttl",
];

/// The keys of a `[[cache.pin]]`.
pub(super) const PIN_KEYS: &[&str] = &["match"];

/// The upstreams, in the order of the file.
#[derive(Clone, Default)]
pub(super) struct Upstreams(pub(super) Vec<Named>);

/// One upstream and where its name was written.
#[derive(Clone)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) origin: Origin,
    pub(super) keys: Upstream,
}

/// A value and where it came from.
#[derive(Clone)]
pub(super) struct Leaf {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// Where a value came from, in rising precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// Built in.
    Default,
    /// The file, at this byte.
    File(usize),
    /// This variable.
    Environment(String),
    /// This flag.
    Flag(&'static str),
}

/// What was written, before it is known what it should have been.
#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Leaf>),
    Table(Vec<(String, Leaf)>),
    /// A number with a fraction, a date: nothing that any key takes.
    Other,
}

impl File {
    /// Every key that exists, with `*` for the name of an upstream.
    pub(super) fn known_keys() -> Vec<String> {
        let tables: [(&str, &[&str]); 8] = [
            ("server", Server::KEYS),
            ("server.tls", Tls::KEYS),
            ("cache", Cache::KEYS),
            ("cache.pin", PIN_KEYS),
            ("tags", Tags::KEYS),
            ("tags.rule", RULE_KEYS),
            ("log", Log::KEYS),
            ("upstream.*", Upstream::KEYS),
        ];
        tables
            .iter()
            .flat_map(|(table, keys)| keys.iter().map(move |key| format!("{table}.{key}")))
            .chain(super::upstreams::known_keys())
            .collect()
    }

    /// The place of a key outside the upstreams, by the table's and the key's name.
    pub(super) fn slot(&mut self, table: &str, key: &str) -> Option<&mut Option<Leaf>> {
        match table {
            "server" => self.server.slot(key),
            // The table comes to be only for a key that exists, or a misspelt one would demand TLS.
            "server.tls" if Tls::KEYS.contains(&key) => self
                .server
                .tls
                .get_or_insert_with(|| Spanned::new(0..0, Tls::default()))
                .get_mut()
                .slot(key),
            "cache" => self.cache.slot(key),
            "tags" => self.tags.slot(key),
            "log" => self.log.slot(key),
            _ => None,
        }
    }
}

impl Origin {
    /// Which layer this is; values of one layer do not override each other.
    pub(super) fn layer(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File(_) => 1,
            Self::Environment(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

impl Leaf {
    /// Text that was not read from the file.
    pub(super) fn text(text: impl Into<String>, origin: Origin) -> Self {
        Self {
            value: Value::Text(text.into()),
            origin,
        }
    }
}

impl<'de> Deserialize<'de> for Leaf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let origin = Origin::File(spanned.span().start);
        Ok(Self {
            value: spanned.into_inner(),
            origin,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Other, Value::Integer))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Leaf>()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = entries.next_entry::<String, Leaf>()? {
            table.push(entry);
        }
        // The parser sorts by name; the order of the file is what the user sees.
        table.sort_by(|(_, a), (_, b)| a.origin.cmp(&b.origin));
        Ok(Value::Table(table))
    }
}

impl<'de> Deserialize<'de> for Upstreams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UpstreamsVisitor)
    }
}

struct UpstreamsVisitor;

impl<'de> Visitor<'de> for UpstreamsVisitor {
    type Value = Upstreams;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a table of upstreams")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Upstreams, A::Error> {
        let mut upstreams = Vec::new();
        while let Some((name, keys)) = entries.next_entry::<Spanned<String>, Upstream>()? {
            upstreams.push(Named {
                origin: Origin::File(name.span().start),
                name: name.into_inner(),
                keys,
            });
        }
        // The parser sorts by name; the order of the file is what the user sees and means.
        upstreams.sort_by(|a, b| a.origin.cmp(&b.origin));
        Ok(Upstreams(upstreams))
    }
}
