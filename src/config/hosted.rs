//! `[hosted]`: repositories that are pushed here.

use super::keys::File;
use super::table::{About, Context, Given, Keys, List, Values as _, name, table, texts};
use super::values::{
    Falls, Flag, Host, ImmutableModes, MaxSize, Size, Time, TimeLimit, UpTo, Visible,
};
use crate::hosted::{self, Config, Expire, Immutable, NamespaceWanted, Overlay};
use crate::oci::UpstreamName;
use crate::upstream;

/// Namespaces, rules and overlays of a file; more are made by the command.
const ENTRIES_MAX: usize = 1_000;

table! {
    /// `[hosted]`.
    HostedKey {
        /// `true`: images can be pushed here. Default: `false`.
        enabled: Flag,
        /// Host names at which all repositories are hosted ones, such as `registry.corp.example`: the recommended form. At other names those are hosted whose first component is a namespace.
        hosts: List<Host>,
        /// `true`: the first push to a namespace creates it, unless the default upstream has that name or does not say that it has not. Default: `false`.
        create_on_push: Flag,
        /// Disk space for hosted content and uploads, in the state directory: a size, or a percentage of the file system. Nothing is evicted for it: pushes are refused with 503 when it is full. Default: `90%`.
        max_size: MaxSize,
        /// Time for which deleted tags and manifests can be restored. Default: `7d`.
        undelete: Time,
        /// Time between the moment when nothing refers to a blob any more and its deletion. Default: `1d`.
        gc_grace: TimeLimit,
        /// Time for which an upload waits for its next byte, and an uploaded blob for a manifest that names it. Default: `1d`.
        upload_expiry: TimeLimit,
        /// Namespaces; others are created with `roadstead ns create`.
        namespace: List<NamespaceKey>,
        /// Tags that stay what they are.
        immutable: List<ImmutableKey>,
        /// Tags that go by themselves, each hour some. The first of these rules that a tag matches decides about it.
        expire: List<ExpireKey>,
        /// Names of upstreams whose hosted repositories are asked first.
        overlay: List<OverlayKey>,
    }
}

table! {
    /// `[[hosted.namespace]]`.
    NamespaceKey {
        /// Its name, the first component of its repositories' names: lower-case letters, digits, `_` and `-`. Required.
        name: Namespace,
        /// `public`: every client that may pull from this server may pull from it; `private`: only those who have said who they are. Default: `private`.
        visibility: Visible,
        /// Bytes that it may take, each digest once. Default: none.
        quota: Size,
        /// `true`: manifests may name content that the repository does not have, as an index of some platforms does. Default: `false`.
        sparse: Flag,
    }
}

table! {
    /// `[[hosted.immutable]]`.
    ImmutableKey {
        /// The repositories, such as `team/*`; `*` stands for anything. Required.
        repository: RulePattern,
        /// The tags, such as `v*`. Required.
        tag: RulePattern,
        /// `no-move`: once such a tag names something it names nothing else; `no-move-no-delete`: nor can it be deleted. Default: `no-move`.
        mode: ImmutableModes,
    }
}

table! {
    /// `[[hosted.expire]]`.
    ExpireKey {
        /// The repositories, such as `ci/*`; `*` stands for anything. Required.
        repository: RulePattern,
        /// The tags, such as `pr-*`. Required.
        tag: RulePattern,
        /// The number of tags of a repository that stay, of those that the rule decides about: the ones pushed last. Default: none, if `older_than` is given.
        keep_newest: UpTo<1_000_000>,
        /// Tags stay that were pushed no longer ago than this, the same content again, too. With `keep_newest` a tag goes only if both say so. Default: none, if `keep_newest` is given.
        older_than: TimeLimit,
    }
}

table! {
    /// `[[hosted.overlay]]`.
    OverlayKey {
        /// An upstream's name, a slash, and the beginning of repository names there: `docker.io/acme`. Required.
        name: OverlayName,
        /// The namespace whose repositories are asked first. Required.
        hosted: Namespace,
        /// When the upstream is asked: `never`; `repository`: where there is no such repository here; `tag`: where there is no such tag or digest here, so that the owner of the name there can answer for a tag that is not pushed yet. Default: `repository`.
        fall: Falls,
    }
}

texts! {
    /// The name of a namespace.
    Namespace: String = namespace, "^[a-z0-9][a-z0-9_-]*$";
    /// A pattern of repositories or tags.
    RulePattern: String = pattern, "^.+$";
    /// An upstream and a path.
    OverlayName: String = overlay_name, "^.+/.+$";
}

fn namespace(text: &str) -> Result<String, String> {
    hosted::check_namespace(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn pattern(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 512 || text.matches('*').count() > 8 {
        return Err("must be a pattern like \"team/*\", with 8 `*` at most".to_owned());
    }
    Ok(text.to_owned())
}

fn overlay_name(text: &str) -> Result<String, String> {
    let why = "must be an upstream's name and a path, like \"docker.io/acme\"";
    let parts = text.split_once('/');
    let parts = parts.filter(|(_, path)| crate::oci::Repository::parse(path).is_ok());
    parts.ok_or(why)?;
    Ok(text.to_owned())
}

macro_rules! about {
    ($($kind:ident: $name:literal),+) => {$(
        impl About for $kind {
            const MAX: usize = ENTRIES_MAX;

            fn about_list() -> String {
                concat!("must be an array of tables, each under [[hosted.", $name, "]]").to_owned()
            }
        }
    )+};
}

about! {
    NamespaceKey: "namespace", ImmutableKey: "immutable", ExpireKey: "expire", OverlayKey: "overlay"
}

/// Resolves `[hosted]`.
pub(super) fn resolve(
    file: &File,
    upstreams: &[upstream::Config],
    context: &Context<'_>,
) -> Option<Box<Config>> {
    let Given { value: keys, .. } = file.hosted.as_ref()?;
    let defaults = Config::default();
    let hosts = keys.hosts.value().unwrap_or_default();
    let own = |name: &UpstreamName| upstreams.iter().any(|it| it.name == *name);
    for host in hosts.iter().filter(|host| own(&host.value)) {
        let why = "is the name of an upstream, and cannot be a host of one's own";
        context.wrong(&host.place, why);
    }
    if let Some(enabled) = keys.enabled.as_ref().filter(|it| it.value)
        && file.cluster.is_some()
    {
        let why = "cannot be used on a node of a cluster: the others would not know what is pushed here. Push to a roadstead without [cluster], which can be an upstream of these nodes";
        context.wrong(&enabled.place, why);
    }
    Some(Box::new(Config {
        enabled: keys.enabled.value_or(false),
        hosts: hosts.iter().map(|it| it.value.to_string()).collect(),
        create_on_push: keys.create_on_push.value_or(false),
        max_size: keys.max_size.value_or(defaults.max_size),
        undelete: keys.undelete.value_or(defaults.undelete),
        gc_grace: keys.gc_grace.value_or(defaults.gc_grace),
        upload_expiry: keys.upload_expiry.value_or(defaults.upload_expiry),
        namespaces: namespaces(keys, upstreams, context),
        immutable: immutable(keys, context),
        expire: expire(keys, context),
        overlays: overlays(keys, upstreams, context),
    }))
}

fn namespaces(
    keys: &HostedKey,
    upstreams: &[upstream::Config],
    context: &Context<'_>,
) -> Vec<NamespaceWanted> {
    let given = keys.namespace.iter().flat_map(|given| &given.value);
    let mut all: Vec<NamespaceWanted> = Vec::new();
    for Given { value, .. } in given {
        let Some(named) = required(
            &value.keys,
            value.name.as_ref(),
            "name",
            "\"team\"",
            context,
        ) else {
            continue;
        };
        let name = named.value.clone();
        if upstreams.iter().any(|it| it.name.as_str() == name) {
            context.wrong(
                &named.place,
                "is the name of an upstream, and cannot be a namespace",
            );
        }
        if all.iter().any(|it| it.name == name) {
            context.wrong(&named.place, "is given twice");
        }
        all.push(NamespaceWanted {
            name,
            visibility: value.visibility.value_or(hosted::Visibility::default()),
            quota: value.quota.value(),
            sparse: value.sparse.value_or(false),
        });
    }
    all
}

fn immutable(keys: &HostedKey, context: &Context<'_>) -> Vec<Immutable> {
    let given = keys.immutable.iter().flat_map(|given| &given.value);
    let rule = |Given { value, .. }: &Given<ImmutableKey>| {
        let of = &value.keys;
        let repository = required(
            of,
            value.repository.as_ref(),
            "repository",
            "\"team/*\"",
            context,
        );
        let tag = required(of, value.tag.as_ref(), "tag", "\"v*\"", context);
        Some(Immutable {
            repository: repository?.value.clone(),
            tag: tag?.value.clone(),
            mode: value.mode.value_or(hosted::ImmutableMode::default()),
        })
    };
    given.filter_map(rule).collect()
}

fn expire(keys: &HostedKey, context: &Context<'_>) -> Vec<Expire> {
    let given = keys.expire.iter().flat_map(|given| &given.value);
    let rule = |Given { value, .. }: &Given<ExpireKey>| {
        let of = &value.keys;
        let repository = value.repository.as_ref();
        let repository = required(of, repository, "repository", "\"ci/*\"", context);
        let tag = required(of, value.tag.as_ref(), "tag", "\"pr-*\"", context);
        if value.keep_newest.is_none() && value.older_than.is_none() {
            let why = "is missing, and keep_newest too: write older_than = \"30d\", keep_newest = 10, or both";
            // One with a wrong value was reported.
            if of.place_of("keep_newest").is_none() {
                let none: Option<&Given<TimeLimit>> = None;
                of.required(none, "older_than", why, context).ok();
            }
        }
        Some(Expire {
            repository: repository?.value.clone(),
            tag: tag?.value.clone(),
            keep_newest: value
                .keep_newest
                .value()
                .and_then(|it| u64::try_from(it).ok()),
            older_than: value.older_than.value(),
        })
    };
    given.filter_map(rule).collect()
}

fn overlays(
    keys: &HostedKey,
    upstreams: &[upstream::Config],
    context: &Context<'_>,
) -> Vec<Overlay> {
    let given = keys.overlay.iter().flat_map(|given| &given.value);
    let overlay = |Given { value, .. }: &Given<OverlayKey>| {
        let of = &value.keys;
        let named = required(
            of,
            value.name.as_ref(),
            "name",
            "\"docker.io/acme\"",
            context,
        );
        let hosted = required(of, value.hosted.as_ref(), "hosted", "\"acme\"", context);
        let named = named?;
        let upstream = named.value.split('/').next().unwrap_or_default();
        if !upstreams.iter().any(|it| it.name.as_str() == upstream) {
            context.wrong(&named.place, format!("{upstream:?} is no upstream here"));
        }
        Some(Overlay {
            name: named.value.clone(),
            hosted: hosted?.value.clone(),
            fall: value.fall.value_or(hosted::Fall::default()),
        })
    };
    given.filter_map(overlay).collect()
}

fn required<'g, T>(
    keys: &Keys,
    given: Option<&'g Given<T>>,
    name: &str,
    example: &str,
    context: &Context<'_>,
) -> Option<&'g Given<T>> {
    let why = format!("is missing; write {name} = {example}");
    keys.required(given, name, &why, context).ok()
}
