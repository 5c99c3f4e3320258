//! Every key of a file: its name, its kind and its meaning. The JSON Schema and the reference of keys
//! (`docs/reference/configuration-keys.md`) take their words from here.

use super::access::Access;
use super::cluster::ClusterKey;
use super::hosted::HostedKey;
use super::limits::AuditKey;
use super::listeners::{AdminTls, ListenerKey, Tls};
use super::table::{List, OneOrMore, name, table};
use super::tags::Needs;
use super::telemetry::TelemetryKey;
use super::tier::TierKey;
use super::transparent::TransparentKey;
use super::upstreams::{CredentialsKey, EndpointKey, HeadersKey, Provider, ProxyKey, UpstreamsKey};
use super::values::{
    Address, CacheShare, Command, EndpointUrl, Failures, FillOnRanges, Flag, HeaderTimeout, Host,
    Ip, LogFormats, LogLevel, Match, MaxAge, MaxSize, MinFree, Networks, Path, Rate, RetryDelay,
    Revalidations, Scrub, SegmentSize, ServiceUrl, Size, Strategies, Text, Time, TimeLimit, Ttls,
    UpTo, Visibilities,
};

/// More descriptors than a process is let have.
const CLIENTS_MAX: usize = 1_000_000;
/// Far above what a registry lets one address have.
const CONNECTIONS_MAX: usize = 1024;
/// Registries throttle or ban a client long before this many connections help.
const PARALLEL_MAX: usize = 64;

table! {
    /// The whole file.
    File {
        /// Client listeners, the admin listener, and limits of connections.
        server: Server,
        /// Access: who may come in, and who may do what. Without this table everybody may pull everything.
        access: Access,
        /// The audit log: pulls, logins, denials and what operators do. Without this table there is none.
        audit: AuditKey,
        /// State that cannot be fetched again.
        state: State,
        /// The cache on disk.
        cache: Cache,
        /// Freshness of tags, which upstreams may move.
        tags: Tags,
        /// Logging.
        log: Log,
        /// The upstream registries by their public names. A file with any of these tables has exactly those in it; one without has the nine built-in ones.
        upstream: UpstreamsKey,
        /// Hosted repositories: images that are pushed here. Without this table nothing can be pushed.
        hosted: HostedKey,
        /// Several nodes that share one cache. Without this table the process is alone.
        cluster: ClusterKey,
        /// An object store beside the cache. Without this table there is none.
        tier: TierKey,
        /// Traces.
        telemetry: TelemetryKey,
    }
}

table! {
    /// `[server]`.
    Server {
        /// Client listener: `IP:PORT`, `localhost:PORT`, or `:PORT` for every IPv4 address. Flag `--listen`.
        listen: Address,
        /// Several client listeners instead of `listen`, each with its own `access` and `tls`. They share all limits.
        listener: List<ListenerKey>,
        /// Admin listener, for metrics, health and the admin API; plain HTTP without `[server.admin_tls]`. Flag `--admin-listen`.
        admin_listen: Address,
        /// A Unix socket with the same answers, for root and the user that roadstead runs as; mode 0600. One that is left from before is replaced.
        admin_socket: Path,
        /// Host names by which the admin API may be asked, besides IP addresses and `localhost`.
        admin_hosts: List<Host>,
        /// HTTPS for the admin listener.
        admin_tls: AdminTls,
        /// `true`: connections to `listen` begin with a PROXY protocol header (version 1 or 2), and only those of `trusted_proxies` are taken. The client's address is the one in it. Default: `false`.
        proxy_protocol: Flag,
        /// Networks of proxies and load balancers. The client of a request from there is the last address in `X-Forwarded-For` (or else `Forwarded`) outside of them, in logs, limits and rules; `X-Forwarded-Proto` decides the scheme of the token URL.
        trusted_proxies: List<Networks>,
        /// `true`: the configuration file is read again when it has changed, as by `roadstead reload`. Default: `false`.
        watch_config: Flag,
        /// Time for which running requests may go on after SIGTERM or SIGINT. The process ends 5 s after that, even if something hangs.
        drain_timeout: Time,
        /// The most client connections at once; fewer where the limit on open files is low. When all are taken, the longest idle one of the address with the most connections is closed for a new one.
        max_connections: UpTo<CLIENTS_MAX>,
        /// Time that a client may take to send its request headers, the TLS handshake included.
        head_timeout: TimeLimit,
        /// Time that a connection may be without a request. Go's HTTP client closes its own after 90 s.
        idle_timeout: TimeLimit,
        /// A body is aborted when its client takes no byte for this long; over HTTP/2 that stream alone.
        body_stall_timeout: TimeLimit,
        /// While there is no room for others, a body is aborted when its client takes fewer bytes a second; `0` turns it off.
        body_min_rate: Rate,
        /// HTTPS for clients (HTTP/1.1 and HTTP/2); without this table they are served over plain HTTP.
        tls: Tls,
        /// Transparent mode: listeners with TLS answer at the upstreams' own names, with certificates that a local authority signs, to clients that a DNS override leads here. The table may be empty.
        transparent: TransparentKey,
    }
}

table! {
    /// `[state]`.
    State {
        /// Directory for state that cannot be fetched again: imported names, pins, users, tokens and their signing keys, and the repositories that were seen to be public. It must be on a local disk; each roadstead needs its own. Files in it are readable by their owner alone (0700, 0600). Flag `--state-dir`. Default: `~/.local/state/roadstead`, or `/var/lib/roadstead` for a user without a home.
        dir: Path,
    }
}

table! {
    /// `[cache]`.
    Cache {
        /// Directory of the cache: one that is empty, new, or a cache (it has `VERSION`; any other is refused), on one file system. Files in it are readable by their owner and group alone (0750, 0640). Flag `--cache-dir`. Default: `~/.cache/roadstead`, or `/var/cache/roadstead` for a user without a home.
        dir: Path,
        /// Disk space for the cache, running transfers and the index included: a size of at least `1MB`, or a percentage of the file system like `80%`. When it is full, the least recently and least often used blobs are evicted first. Flag `--cache-size`.
        max_size: MaxSize,
        /// Free space that the cache leaves on the file system, whatever else fills it: a size or a percentage; `0` turns it off.
        min_free: MinFree,
        /// Time for which content is kept that no client pulls, `1h` at least; `off`: as long as there is room.
        max_age: MaxAge,
        /// When a client reads only a part of a blob: `always` fetches the rest too, behind that part; `never` fetches only what is read; `over 25%` fetches the rest once more than that is stored.
        fill_on_range: FillOnRanges,
        /// The time in which everything stored is read and hashed again in the background, `1h` at least; damaged blobs are fetched again. `off`: never.
        scrub: Scrub,
        /// Images that are never evicted once they are pulled; `roadstead pin` pins single images.
        pin: List<Needs<Pin>>,
    }
}

table! {
    /// `[[cache.pin]]`.
    Pin {
        /// The images that are pinned, by a pattern as in `[[tags.rule]]`: `registry.k8s.io/pause*`. Required.
        pattern as "match": Match,
    }
}

table! {
    /// `[tags]`.
    Tags {
        /// Time for which a tag is served without asking upstream; `0s` asks every time; with `forever` upstream is never asked again.
        ttl: Ttls,
        /// When `ttl` is over, `blocking` asks upstream before it answers; `background` answers with the known digest at once, and asks upstream for the next pull.
        revalidate: Revalidations,
        /// Time past `ttl` for which a tag may still be served when upstream cannot answer.
        stale_if_error: Time,
        /// The upstream failures for which a stale tag is served; `denied` (401, 403) can be added.
        stale_on: List<Failures>,
        /// `true` goes on serving a tag that upstream has deleted (404), without end.
        keep_deleted: Flag,
        /// Time for which an upstream's 404 is cached (negative caching); `0s` asks every time.
        negative_ttl: Time,
        /// Other values for some tags. The first rule that matches decides; keys it does not set are as in `[tags]`.
        rule: List<Needs<Rule>>,
    }
}

table! {
    /// `[[tags.rule]]`.
    Rule {
        /// The tags that are meant: an upstream's name, a slash, the repository, a colon and the tag. `*` stands for anything within a component or the tag, `**` for any number of components; without a tag every tag is meant. Required.
        pattern as "match": Match,
        /// As `tags.ttl`. Default: `tags.ttl`.
        ttl: Ttls,
        /// As `tags.revalidate`. Default: `tags.revalidate`.
        revalidate: Revalidations,
        /// As `tags.stale_if_error`. Default: `tags.stale_if_error`.
        stale_if_error: Time,
        /// As `tags.stale_on`. Default: `tags.stale_on`.
        stale_on: List<Failures>,
        /// As `tags.keep_deleted`. Default: `tags.keep_deleted`.
        keep_deleted: Flag,
        /// As `tags.negative_ttl`. Default: `tags.negative_ttl`.
        negative_ttl: Time,
    }
}

table! {
    /// `[log]`.
    Log {
        /// `text` for people or `json` for machines. Flag `--log-format`.
        format: LogFormats,
        /// `error`, `warn`, `info`, `debug`, `trace`, `off`, or directives such as `info,roadstead::upstream=debug`. The variable `ROADSTEAD_LOG` and the flag `--log-level` beat it.
        level: LogLevel,
    }
}

table! {
    /// `[upstream."NAME"]`.
    Upstream {
        /// Base URLs with the same content, in order of preference. Each is text, or a table with `url` and its own options (`ca_file`, `client_cert`, `proxy`, `headers`, a login, …). Required.
        endpoints: List<EndpointKey>,
        /// Requests that name no upstream go here; at most one. A single upstream is the default unless `default = false`. Flag `--default-upstream`. Default: `false` if there are several upstreams.
        default: Flag,
        /// `Host` names of requests that select it; without a port, any port matches.
        hosts: List<Host>,
        /// `ordered`: endpoints as they are written; `fastest`: the one that answers fastest first. In both, an endpoint that keeps failing is skipped while its circuit breaker is open.
        strategy: Strategies,
        /// `environment` (`HTTPS_PROXY` and so on), `direct`, a URL (`http`, `https`, `socks5`, `socks5h`), or a table with `url` and a login.
        proxy: ProxyKey,
        /// The user that roadstead pulls as; it needs one of the three kinds of password.
        username: Text,
        /// A file with the user name, read again when it changes.
        username_file: Text,
        /// The name of an environment variable with the user name.
        username_env: Text,
        /// The password or token itself.
        password: Text,
        /// A file with the password, read again when it changes; line ends at its end are dropped.
        password_file: Text,
        /// The name of an environment variable with the password.
        password_env: Text,
        /// Instead of `username` and a password: a Docker client's `config.json` (`auths`, `credsStore`, `credHelpers`), read again when it changes.
        docker_config: Path,
        /// Instead of `username` and a password: one login or a pool of them, of any kind: passwords, programs, AWS, Google, Azure, Alibaba, Tencent.
        credentials: CredentialsKey,
        /// Content for clients without credentials: `public`, what anybody could pull from the upstream itself; `rules`, what a statement of `[access]` allows; `anyone`, all that roadstead can pull. `upstream`: each client gets what the upstream gives for the credentials that the client itself has for it. Default: `public` where roadstead has a login for it and listens to others than this machine, else `anyone`.
        visibility: Visibilities,
        /// Time for which it is remembered what anybody, or a client with its own credentials, could pull.
        visibility_ttl: Time,
        /// Requests to it at the same time, each counted until its body ends; more wait; 1 to 1024.
        max_connections: UpTo<CONNECTIONS_MAX>,
        /// Name look-up, TCP, proxy and TLS of one connection; several endpoints share 10 s.
        connect_timeout: TimeLimit,
        /// Time from a request to its first response header, all endpoints, redirects and tokens included; at most `25s`.
        header_timeout: HeaderTimeout,
        /// A connection without a byte for this long is replaced, and the transfer resumes at the byte reached.
        idle_timeout: TimeLimit,
        /// The first wait before a broken transfer is resumed. Each further wait is twice as long, up to fifty times this. At most `10s`.
        retry_delay: RetryDelay,
        /// Parallel connections for one big blob, 1 to 64; limited by what `max_connections` has free, and only where the endpoint honours Range.
        parallel: UpTo<PARALLEL_MAX>,
        /// Blobs up to this size are fetched on one connection.
        parallel_above: Size,
        /// Bytes that each of the parallel connections requests at a time; at least `1MiB`.
        segment_size: SegmentSize,
        /// Share (quota) of the cache for blobs of this upstream; a blob that several upstreams have counts for the one that it was first fetched from. Enforced in the background. Default: no share of its own.
        max_size: CacheShare,
        /// Time for which its blobs are kept that no client pulls. Default: `cache.max_age`.
        max_age: MaxAge,
    }
}

table! {
    /// An endpoint that is written as a table.
    Endpoint {
        /// The base URL: `http://` or `https://`, with a path prefix if need be. Required.
        url: EndpointUrl,
        /// A PEM file of certificates that the endpoint's may be signed by, besides the system's, or of the endpoint's own self-signed certificate.
        ca_file: Path,
        /// The certificate that roadstead shows, with its chain, in PEM.
        client_cert: Path,
        /// Its private key in PEM; both or neither.
        client_key: Path,
        /// `true` disables certificate verification: anybody on the way can read along and steal the password. Default: `false`.
        insecure_skip_verify: Flag,
        /// As `proxy` of the upstream. Default: the upstream's.
        proxy: ProxyKey,
        /// The addresses of the URL's host, one or an array. Default: they are looked up.
        resolve: OneOrMore<Ip>,
        /// Networks or addresses in which its redirects and token servers may lie, besides those where it lies itself.
        redirect_networks: OneOrMore<Networks>,
        /// Sent with every request to this endpoint, never to where it redirects. Values are treated as secrets.
        headers: HeadersKey,
        /// This endpoint's own login, instead of the upstream's: the user name.
        username: Text,
        /// A file with the user name, read again when it changes.
        username_file: Text,
        /// The name of an environment variable with the user name.
        username_env: Text,
        /// The password or token itself.
        password: Text,
        /// A file with the password, read again when it changes.
        password_file: Text,
        /// The name of an environment variable with the password.
        password_env: Text,
        /// Instead of `username` and a password: a Docker client's `config.json`.
        docker_config: Path,
        /// Instead of `username` and a password: one login or a pool; `[]` sends no login to this endpoint.
        credentials: CredentialsKey,
    }
}

table! {
    /// A proxy that is written as a table.
    ProxyTable {
        /// The proxy: `http://`, `https://`, `socks5://` or `socks5h://`. Required.
        url: Text,
        /// The user at the proxy.
        username: Text,
        /// A file with the user name, read at start.
        username_file: Text,
        /// The name of an environment variable with the user name.
        username_env: Text,
        /// The password itself.
        password: Text,
        /// A file with the password, read at start.
        password_file: Text,
        /// The name of an environment variable with the password.
        password_env: Text,
    }
}

table! {
    /// One login: keys of exactly one kind.
    Login {
        /// The user name.
        username: Text,
        /// A file with the user name, read again when it changes.
        username_file: Text,
        /// The name of an environment variable with the user name.
        username_env: Text,
        /// Its password.
        password: Text,
        /// A file with the password, read again when it changes.
        password_file: Text,
        /// The name of an environment variable with the password.
        password_env: Text,
        /// A Docker client's `config.json`; what stands there for the endpoint's host is used.
        docker_config: Path,
        /// A program and its arguments; it speaks the protocol of docker-credential helpers (`get`).
        exec: Command,
        /// Time that the program may take. Default: `10s`.
        timeout: TimeLimit,
        /// Time for which the login that the program gave is used, unless that says `ExpiresIn` or `ExpiresAt`. Default: `5m`.
        ttl: TimeLimit,
        /// A cloud's registry: `ecr`, `gar`, `acr-azure`, `acr-alibaba` or `tcr`.
        provider: Provider,
        /// The region (`ecr`, `acr-alibaba`, `tcr`); required for `tcr`. Default: the one in the endpoint's host name; for `ecr` else `AWS_REGION`.
        region: Text,
        /// The instance (`acr-alibaba`: of the Enterprise edition; `tcr`: required).
        instance_id: Text,
        /// The access key's id (`ecr`, `acr-alibaba`).
        access_key_id: Text,
        /// A file with it.
        access_key_id_file: Text,
        /// The name of an environment variable with it.
        access_key_id_env: Text,
        /// The access key's secret (`ecr`).
        secret_access_key: Text,
        /// A file with it.
        secret_access_key_file: Text,
        /// The name of an environment variable with it.
        secret_access_key_env: Text,
        /// The access key's secret (`acr-alibaba`).
        access_key_secret: Text,
        /// A file with it.
        access_key_secret_file: Text,
        /// The name of an environment variable with it.
        access_key_secret_env: Text,
        /// The key's id (`tcr`).
        secret_id: Text,
        /// A file with it.
        secret_id_file: Text,
        /// The name of an environment variable with it.
        secret_id_env: Text,
        /// The key's secret (`tcr`).
        secret_key: Text,
        /// A file with it.
        secret_key_file: Text,
        /// The name of an environment variable with it.
        secret_key_env: Text,
        /// The token of temporary keys (`ecr`, `acr-alibaba`, `tcr`).
        session_token: Text,
        /// A file with it.
        session_token_file: Text,
        /// The name of an environment variable with it.
        session_token_env: Text,
        /// The role of a web identity, instead of keys (`ecr`). Default: `AWS_ROLE_ARN`.
        role_arn: Text,
        /// The file with the web identity's token (`ecr`). Default: `AWS_WEB_IDENTITY_TOKEN_FILE`.
        web_identity_token_file: Path,
        /// The JSON key of a service account (`gar`). Default: `GOOGLE_APPLICATION_CREDENTIALS`, or else the metadata service.
        key_file: Path,
        /// The tenant of a service principal (`acr-azure`). Default: none, the managed identity is used.
        tenant_id: Text,
        /// The client id of the service principal, or of a user-assigned managed identity (`acr-azure`).
        client_id: Text,
        /// The secret of the service principal (`acr-azure`).
        client_secret: Text,
        /// A file with it.
        client_secret_file: Text,
        /// The name of an environment variable with it.
        client_secret_env: Text,
        /// The RAM role, instead of keys (`acr-alibaba`). Default: the machine's.
        ram_role: Text,
        /// The CAM role, instead of keys (`tcr`). Default: the machine's.
        cam_role: Text,
        /// Another address of the registry's API (for VPC endpoints).
        api_url: ServiceUrl,
        /// Another address of the service that exchanges identities.
        identity_url: ServiceUrl,
        /// Another address of the metadata service.
        metadata_url: ServiceUrl,
    }
}
