//! `[tier]`: an object store beside the cache.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::keys::File;
use super::table::{Context, Given, List, Outcome, Reported, Values as _, name, table, texts};
use super::upstreams::texts::{self, Source, source};
use super::upstreams::{ProxyKey, proxy};
use super::values::{EndpointUrl, Flag, MaxAge, Networks, Path, Redirects, ServiceUrl, Text};
use crate::cluster::Keys;
use crate::tier::{Access, Config, Encryption, Redirect, Scheme, When, Write};
use crate::upstream::{CloudUrls, ProxyConfig, StorageLogin};

/// Renewing more often would be billed for nothing.
const RENEW_MIN: Duration = Duration::from_hours(24);

/// The keys that say how roadstead logs in, in order of precedence.
const AMAZON: &[&str] = &["role_arn", "web_identity_token_file"];

table! {
    /// `[tier]`.
    TierKey {
        /// The bucket and the beginning of all keys in it: `s3://BUCKET/PREFIX`, `oss://…` (Alibaba), `gs://…` (Google) or `az://CONTAINER/…` (Azure). Any store with Amazon's protocol is `s3://` with an `endpoint`. Required.
        url: PlaceKey,
        /// The address of the store, where it is not the cloud's usual one: `https://minio.corp:9000`.
        endpoint: EndpointUrl,
        /// The region, for `s3://` and `oss://`. Default: `AWS_REGION`, else `us-east-1`; `oss://` needs one.
        region: Text,
        /// `true`: the bucket's name is a part of the host's name. Default: `true` for `oss://`, and for `s3://` without an `endpoint`.
        virtual_hosted: Flag,
        /// The account, for `az://`. Required there.
        account: Text,
        /// The id of the access key, for `s3://` and `oss://`.
        access_key_id: Text,
        /// A file with it, read again within minutes when it changes.
        access_key_id_file: Text,
        /// The environment variable that holds it.
        access_key_id_env: Text,
        /// The secret part of the access key; for `az://` the account's key.
        secret_access_key: Text,
        /// A file with it, read again within minutes when it changes.
        secret_access_key_file: Text,
        /// The environment variable that holds it.
        secret_access_key_env: Text,
        /// A file with the token of temporary keys.
        session_token_file: Path,
        /// The role that is assumed with a web identity, for `s3://`. Without keys and role: the machine's own role.
        role_arn: Text,
        /// A file with the token of the web identity.
        web_identity_token_file: Path,
        /// The RAM role, for `oss://` without keys. Default: the one that the metadata service names.
        ram_role: Text,
        /// The JSON key of a service account, for `gs://`. Without it: the machine's service account.
        key_file: Path,
        /// The tenant of the service principal, for `az://`. Without principal and key: the machine's managed identity.
        tenant_id: Text,
        /// The client id of the service principal, or of an identity that users assign.
        client_id: Text,
        /// A file with the secret of the service principal.
        client_secret_file: Path,
        /// Other addresses of the services that give identities (STS, OAuth), for VPC endpoints.
        identity_url: ServiceUrl,
        /// Another address of the metadata service.
        metadata_url: ServiceUrl,
        /// A PEM file of further trusted roots.
        ca_file: Path,
        /// The way to the store, as `upstream.*.proxy`. Default: `environment`.
        proxy: ProxyKey,
        /// A file with a secret that all nodes with this bucket share, as `cluster.secret_file`, whose default it is. Tags, and which repository has what, are sealed with it: without it they are not kept in the bucket.
        secret_file: Path,
        /// `false`: the bucket is only read. Default: `true`.
        write: Flag,
        /// The class of storage of what is written, as the store names it. Default: the bucket's.
        storage_class: Text,
        /// Encryption by the store: `AES256`, or `aws:kms`. Default: the bucket's.
        encryption: EncryptionKey,
        /// The key of the key service, for `aws:kms`.
        kms_key_id: Text,
        /// Objects that are older than this, and in use, are written again: half of the time after which a lifecycle rule of the bucket deletes objects; `1d` at least. Default: `off`.
        renew: MaxAge,
        /// Clients that ask for a blob that is not on this node's disk are sent to the bucket by a signed URL: `never`, `busy` (while many bodies are on their way) or `always`. Only for blobs of more than 16 MiB that the bucket is known to have and that everybody may pull. Default: `never`.
        redirect: Redirects,
        /// The address of the store for clients, if that is another one.
        public_endpoint: EndpointUrl,
        /// Networks of the clients that reach the store. Default: all.
        redirect_to: List<Networks>,
    }
}

texts! {
    /// A part of a bucket.
    PlaceKey: crate::tier::Place = place, r"^(s3|oss|gs|az)://[^/?#]+(/[^?#]*)?$";
    /// Encryption by the store.
    EncryptionKey: String = encryption, "^(AES256|aws:kms)$";
}

fn place(text: &str) -> Result<crate::tier::Place, String> {
    let wrong = || "must be like \"s3://bucket/prefix\", with s3, oss, gs or az".to_owned();
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let all = [Scheme::S3, Scheme::Oss, Scheme::Gs, Scheme::Az];
    let scheme = all.into_iter().find(|it| it.word() == scheme);
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-$".contains(&byte);
    if bucket.is_empty() || bucket.len() > 63 || !bucket.bytes().all(is_plain) {
        return Err(wrong());
    }
    let prefix = prefix.trim_matches('/');
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    let is_good = prefix.is_empty() || prefix.split('/').all(is_part);
    if prefix.contains(['?', '#', '\\']) {
        return Err(wrong());
    }
    if !is_good || prefix.len() > 256 {
        return Err(
            "has a part that is empty, \".\" or \"..\", or is longer than 256 bytes".to_owned(),
        );
    }
    Ok(crate::tier::Place {
        scheme: scheme.ok_or_else(wrong)?,
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
    })
}

fn encryption(text: &str) -> Result<String, String> {
    match text {
        "AES256" | "aws:kms" => Ok(text.to_owned()),
        _ => Err("must be \"AES256\" or \"aws:kms\"".to_owned()),
    }
}

/// Resolves `[tier]`.
pub(super) fn resolve(
    file: &File,
    cluster: Option<&crate::cluster::Config>,
    context: &Context<'_>,
) -> Option<Box<Config>> {
    let Given { value: keys, .. } = file.tier.as_ref()?;
    let why = "is missing; write url = \"s3://bucket/prefix\"";
    let url = keys.keys.required(keys.url.as_ref(), "url", why, context);
    let place = url.ok()?;
    let tier = Tier {
        keys,
        place,
        context,
    };
    let shared = match cluster.map(|it| &it.keys) {
        Some(Keys::Secret(path)) => Some(path.clone()),
        Some(Keys::Authority { .. }) | None => None,
    };
    let secret_file = tier.file_of(keys.secret_file.as_ref());
    let secret_file = secret_file.ok()?.or(shared);
    let (access, login) = (tier.access(), tier.login());
    let (write, redirect) = (tier.write(), tier.redirect());
    Some(Box::new(Config {
        place: place.value.clone(),
        access: access.ok()?,
        login: login.ok()?,
        secret_file,
        write: write.ok()?,
        redirect,
    }))
}

/// The table, while it is resolved.
struct Tier<'a> {
    keys: &'a TierKey,
    place: &'a Given<crate::tier::Place>,
    context: &'a Context<'a>,
}

impl Tier<'_> {
    fn scheme(&self) -> Scheme {
        self.place.value.scheme
    }

    fn needs(&self, key: &str) -> Reported {
        let why = format!("needs {key}");
        self.context.wrong(&self.place.place, why)
    }

    fn access(&self) -> Outcome<Access> {
        let keys = self.keys;
        let region = match keys.region.value() {
            None if self.scheme() == Scheme::S3 => self.variable("AWS_REGION")?,
            region => region,
        };
        let mut endpoint: Option<Url> = keys.endpoint.value();
        if self.scheme() == Scheme::Oss {
            let region = region.as_deref().ok_or_else(|| self.needs("region"))?;
            if endpoint.is_none() {
                endpoint = Some(self.of_oss(region)?);
            }
        }
        if self.scheme() == Scheme::Az && keys.account.is_none() {
            return Err(self.needs("account"));
        }
        let usual = match self.scheme() {
            Scheme::Oss => true,
            Scheme::S3 => keys.endpoint.is_none(),
            Scheme::Gs | Scheme::Az => false,
        };
        let virtual_hosted = keys.virtual_hosted.value_or(usual);
        let is_name = |url: &Url| url.domain().is_some();
        if virtual_hosted && !endpoint.as_ref().is_none_or(is_name) {
            let place = keys.virtual_hosted.as_ref().map(|it| &it.place);
            let why = "needs an endpoint with a name: a bucket cannot be a part of an IP address";
            return Err(self.context.wrong(place.unwrap_or(&self.place.place), why));
        }
        Ok(Access {
            endpoint,
            region,
            virtual_hosted,
            account: keys.account.value(),
            ca_file: self.file_of(keys.ca_file.as_ref())?,
            proxy: match &keys.proxy {
                Some(given) => proxy::proxy(given, self.context)?,
                None => self.environment()?,
            },
        })
    }

    /// OSS's address for Amazon's protocol.
    fn of_oss(&self, region: &str) -> Outcome<Url> {
        let sane = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let address = format!("https://s3.oss-{region}.aliyuncs.com");
        let url = Url::parse(&address).ok();
        let url = url.filter(|_| region.bytes().all(sane));
        url.ok_or_else(|| self.needs("a region like \"cn-hangzhou\""))
    }

    fn environment(&self) -> Outcome<ProxyConfig> {
        proxy::environment(self.context)
    }

    /// A variable of a vendor's tools.
    fn variable(&self, name: &str) -> Outcome<Option<String>> {
        let text = self.context.environment.vendors(name);
        text.map_err(|problem| self.context.report(problem))
    }

    fn login(&self) -> Outcome<StorageLogin> {
        let keys = self.keys;
        let urls = CloudUrls {
            api: None,
            identity: keys.identity_url.value(),
            metadata: keys.metadata_url.value(),
        };
        match self.scheme() {
            Scheme::S3 | Scheme::Oss => self.of_amazon(urls),
            Scheme::Gs => Ok(StorageLogin::Google {
                key_file: self.file_of(keys.key_file.as_ref())?,
                urls,
            }),
            Scheme::Az => self.of_azure(urls),
        }
    }

    fn of_amazon(&self, urls: CloudUrls) -> Outcome<StorageLogin> {
        let keys = self.keys;
        let id = self.id();
        let secret = self.secret();
        if let Some((id, secret)) = id.pair(&secret, self.context)? {
            let token = self.file_of(keys.session_token_file.as_ref())?;
            return Ok(StorageLogin::Pair {
                id: id.text(),
                secret: secret.text(),
                session_token: token.map(crate::upstream::Text::File),
            });
        }
        if self.scheme() == Scheme::Oss {
            let role = keys.ram_role.value();
            return Ok(StorageLogin::Alibaba { role, urls });
        }
        let role = match keys.role_arn.value() {
            None => self.variable("AWS_ROLE_ARN")?,
            role => role,
        };
        let token = match self.file_of(keys.web_identity_token_file.as_ref())? {
            None => self
                .variable("AWS_WEB_IDENTITY_TOKEN_FILE")?
                .map(PathBuf::from),
            token => token,
        };
        let web_identity = match (role, token) {
            (None, None) => None,
            (Some(role), Some(token)) => Some((role, token)),
            (Some(_), None) | (None, Some(_)) => return Err(self.needs(&AMAZON.join(" and "))),
        };
        let region = match keys.region.value() {
            None => self.variable("AWS_REGION")?,
            region => region,
        };
        Ok(StorageLogin::Aws {
            region: region.unwrap_or_else(|| "us-east-1".to_owned()),
            web_identity,
            urls,
        })
    }

    fn of_azure(&self, urls: CloudUrls) -> Outcome<StorageLogin> {
        let keys = self.keys;
        if let Some(key) = self.secret().text(self.context)? {
            return Ok(StorageLogin::Account { key });
        }
        let secret = self.file_of(keys.client_secret_file.as_ref())?;
        if secret.is_some() && (keys.tenant_id.is_none() || keys.client_id.is_none()) {
            return Err(self.needs("tenant_id and client_id with client_secret_file"));
        }
        Ok(StorageLogin::Azure {
            tenant: keys.tenant_id.value(),
            client_id: keys.client_id.value(),
            client_secret: secret.map(crate::upstream::Text::File),
            urls,
        })
    }

    fn id(&self) -> Source<'_> {
        let table = self.keys;
        source!(table, access_key_id access_key_id_file access_key_id_env)
    }

    fn secret(&self) -> Source<'_> {
        let table = self.keys;
        source!(table, secret_access_key secret_access_key_file secret_access_key_env)
    }

    fn file_of(&self, given: Option<&Given<PathBuf>>) -> Outcome<Option<PathBuf>> {
        texts::file(given, self.context)
    }

    fn write(&self) -> Outcome<Write> {
        let keys = self.keys;
        let renew = keys.renew.value_or(None);
        if let Some(given) = &keys.renew
            && renew.is_some_and(|renew| renew < RENEW_MIN)
        {
            let why = "must be at least 1d, or \"off\"";
            return Err(self.context.wrong(&given.place, why));
        }
        let key = keys.kms_key_id.value();
        let encryption = match (keys.encryption.value().as_deref(), key) {
            (Some("aws:kms"), key) => Some(Encryption::Kms(key)),
            (_, Some(_)) => return Err(self.needs("encryption = \"aws:kms\" with kms_key_id")),
            (Some(_), None) => Some(Encryption::Aes256),
            (None, None) => None,
        };
        let amazons = matches!(self.scheme(), Scheme::S3 | Scheme::Oss);
        if encryption.is_some() && !amazons {
            let given = keys.encryption.as_ref().map(|it| &it.place);
            let why =
                "can be chosen for s3 and oss alone: others have it as a setting of the bucket";
            return Err(self.context.wrong(given.unwrap_or(&self.place.place), why));
        }
        Ok(Write {
            enabled: keys.write.value_or(true),
            storage_class: keys.storage_class.value(),
            encryption,
            renew,
        })
    }

    fn redirect(&self) -> Redirect {
        let networks = self.keys.redirect_to.value().unwrap_or_default();
        Redirect {
            when: self.keys.redirect.value_or(When::Never),
            endpoint: self.keys.public_endpoint.value(),
            networks: networks.into_iter().map(|it| it.value).collect(),
        }
    }
}
