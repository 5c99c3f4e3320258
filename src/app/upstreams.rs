//! The upstreams of a configuration.

use super::StartError;
use crate::config::Config;
use crate::mirror::{PublicView, UpstreamSet};
use crate::oci::Directory;
use crate::oci::directory::Entry;
use crate::telemetry::Metrics;
use crate::upstream::{self, OwnListeners, SetupError, Upstream, Visibility};

/// The upstreams of a configuration, set up.
#[derive(Clone, Debug, Default)]
pub(super) struct Made(Vec<MadeUpstream>);

/// An upstream, as roadstead sees it and as clients do.
#[derive(Clone, Debug)]
struct MadeUpstream {
    config: upstream::Config,
    own: Upstream,
    /// Where its visibility is `public`.
    public: Option<PublicView>,
    /// Where its visibility is `upstream`.
    client: Option<PublicView>,
}

impl Made {
    /// Sets up the upstreams of a configuration in a process that listens at `own`: none may lead there. Those that are as
    /// they were `before` stay, with their connections, tokens and limits.
    ///
    /// # Errors
    /// A CA file or the like cannot be used.
    pub(super) fn of(
        config: &Config,
        before: &Self,
        metrics: &Metrics,
        own: &OwnListeners,
    ) -> Result<Self, StartError> {
        let made = config.upstreams.iter().map(|it| {
            let mut before = before.0.iter();
            let before = before.find(|made| made.config == *it && !it.reads_files());
            before.map_or_else(|| MadeUpstream::of(it, metrics, own), |it| Ok(it.clone()))
        });
        Ok(Self(made.collect::<Result<_, _>>()?))
    }

    /// Their parts in a mirror.
    pub(super) fn set(&self) -> UpstreamSet {
        let all = self.0.iter();
        let entries = all.clone().map(|it| Entry {
            name: it.config.name.clone(),
            default: it.config.default,
            hosts: it.config.hosts.clone(),
        });
        UpstreamSet {
            directory: Directory::new(entries.collect()),
            upstreams: all.clone().map(|it| it.own.clone()).collect(),
            public_views: all.clone().filter_map(|it| it.public.clone()).collect(),
            client_views: all.filter_map(|it| it.client.clone()).collect(),
        }
    }
}

impl MadeUpstream {
    fn of(
        config: &upstream::Config,
        metrics: &Metrics,
        own: &OwnListeners,
    ) -> Result<Self, SetupError> {
        let set_up = |config: &upstream::Config| Upstream::beside(config, metrics.clone(), own);
        let view = |visibility, seen: fn(&upstream::Config) -> upstream::Config| {
            let seen = (config.visibility == visibility).then(|| seen(config));
            let upstream = seen.map(|seen| set_up(&seen)).transpose()?;
            Ok(upstream.map(|upstream| PublicView {
                upstream,
                ttl: config.visibility_ttl,
            }))
        };
        Ok(Self {
            own: set_up(config)?,
            public: view(Visibility::Public, upstream::Config::without_secrets)?,
            client: view(Visibility::Upstream, upstream::Config::for_clients)?,
            config: config.clone(),
        })
    }
}
