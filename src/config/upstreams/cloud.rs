//! Logins of cloud registries.

use std::path::PathBuf;

use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::texts::{Source, can_be_read, file, source};
use crate::config::keys::Login;
use crate::config::origin::Origin;
use crate::config::table::{Context, Field, Outcome, Place, Reported, Scalar, Values as _};
use crate::config::values;
use crate::upstream::{CloudConfig, CloudUrls, Secret, Text};

/// Each provider and its keys.
const PROVIDERS: &[(&str, &[&str])] = &[
    (
        "ecr",
        &[
            "provider",
            "region",
            "access_key_id",
            "access_key_id_file",
            "access_key_id_env",
            "secret_access_key",
            "secret_access_key_file",
            "secret_access_key_env",
            "session_token",
            "session_token_file",
            "session_token_env",
            "role_arn",
            "web_identity_token_file",
            "api_url",
            "identity_url",
            "metadata_url",
        ],
    ),
    (
        "gar",
        &["provider", "key_file", "identity_url", "metadata_url"],
    ),
    (
        "acr-azure",
        &[
            "provider",
            "tenant_id",
            "client_id",
            "client_secret",
            "client_secret_file",
            "client_secret_env",
            "api_url",
            "identity_url",
            "metadata_url",
        ],
    ),
    (
        "acr-alibaba",
        &[
            "provider",
            "region",
            "instance_id",
            "access_key_id",
            "access_key_id_file",
            "access_key_id_env",
            "access_key_secret",
            "access_key_secret_file",
            "access_key_secret_env",
            "session_token",
            "session_token_file",
            "session_token_env",
            "ram_role",
            "api_url",
            "metadata_url",
        ],
    ),
    (
        "tcr",
        &[
            "provider",
            "region",
            "instance_id",
            "secret_id",
            "secret_id_file",
            "secret_id_env",
            "secret_key",
            "secret_key_file",
            "secret_key_env",
            "session_token",
            "session_token_file",
            "session_token_env",
            "cam_role",
            "api_url",
            "metadata_url",
        ],
    ),
];

/// The cloud whose registry a login is for.
pub(in crate::config) enum Provider {}

impl Scalar for Provider {
    type Value = &'static str;

    fn parse(written: &DeValue<'_>) -> Result<&'static str, String> {
        let name = values::text(written)?;
        let known = PROVIDERS.iter().map(|(known, _)| *known);
        let found = known.clone().find(|known| *known == name);
        found.ok_or_else(|| {
            let names: Vec<_> = known.collect();
            format!("must be one of \"{}\"", names.join("\", \""))
        })
    }
    fn schema() -> Json {
        let names: Vec<_> = PROVIDERS.iter().map(|(name, _)| *name).collect();
        json!({ "enum": names })
    }
}

/// A login as it was written, and what is known while it is read.
struct Keys<'a> {
    table: &'a Login,
    context: &'a Context<'a>,
}

/// The login of an entry that names a `provider`. `hosts`: those of the endpoints it is for.
pub(super) fn login(table: &Login, hosts: &[&str], context: &Context<'_>) -> Outcome<CloudConfig> {
    let name = table.provider.value().ok_or(Reported)?;
    let mut providers = PROVIDERS.iter();
    let (_, known) = providers
        .find(|(known, _)| *known == name)
        .ok_or(Reported)?;
    table.keys.only(known, context)?;
    let keys = &Keys { table, context };
    match name {
        "ecr" => ecr(keys, hosts),
        "gar" => gar(keys),
        "acr-azure" => azure(keys),
        "acr-alibaba" => alibaba(keys),
        _ => tcr(keys),
    }
}

impl Keys<'_> {
    /// Reports that a key needs another.
    fn needs(&self, place: &Place, needed: &str) -> Reported {
        self.context.wrong(place, format!("needs {needed}"))
    }

    /// Refuses keys together with a role, and reads them.
    fn pair(
        &self,
        id: &Source<'_>,
        secret: &Source<'_>,
        role: &'static str,
    ) -> Outcome<Option<(Text, Text)>> {
        self.table
            .keys
            .one_of(&[&id.names(), &[role]], self.context)?;
        let pair = id.pair(secret, self.context)?;
        Ok(pair.map(|(id, secret)| (id.text(), secret.text())))
    }

    /// The token that belongs to temporary keys.
    fn session_token(&self, has_keys: bool, id: &str) -> Outcome<Option<Text>> {
        let table = self.table;
        let token = source!(table, session_token session_token_file session_token_env);
        match token.given(self.context)? {
            Some((_, given)) if !has_keys => Err(self.needs(&given.place, id)),
            _ => token.text(self.context),
        }
    }

    fn urls(&self) -> CloudUrls {
        CloudUrls {
            api: self.table.api_url.value(),
            identity: self.table.identity_url.value(),
            metadata: self.table.metadata_url.value(),
        }
    }
}

fn ecr(keys: &Keys<'_>, hosts: &[&str]) -> Outcome<CloudConfig> {
    let (role_arn, token_file) = ("role_arn", "web_identity_token_file");
    let table = keys.table;
    let id = source!(table, access_key_id access_key_id_file access_key_id_env);
    let secret = source!(table, secret_access_key secret_access_key_file secret_access_key_env);
    let mut pair = keys.pair(&id, &secret, role_arn)?;
    let mut session_token = keys.session_token(pair.is_some(), "access_key_id")?;
    let mut role = table.role_arn.value();
    let mut token = file(table.web_identity_token_file.as_ref(), keys.context)?;
    let region = match table.region.value() {
        None if !hosts.iter().all(|host| says_its_region(host)) => {
            match variable(keys, "AWS_REGION")? {
                None => variable(keys, "AWS_DEFAULT_REGION")?,
                region => region,
            }
        }
        region => region,
    };
    if pair.is_none() && role.is_none() && token.is_none() {
        // As the vendor's own tools do, with the same precedence: keys, then the web identity.
        pair = variables(keys, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")?;
        if pair.is_some() {
            session_token = variable(keys, "AWS_SESSION_TOKEN")?.map(literal);
        } else {
            role = variable(keys, "AWS_ROLE_ARN")?;
        }
    }
    if role.is_some() && token.is_none() {
        token = file_variable(keys, "AWS_WEB_IDENTITY_TOKEN_FILE")?;
    }
    if token.is_some() && role.is_none() {
        role = variable(keys, "AWS_ROLE_ARN")?;
    }
    let web_identity = match (role, token) {
        (None, None) => None,
        (Some(role), Some(token)) => Some((role, token)),
        (Some(_), None) => return Err(half(keys, role_arn, token_file)),
        (None, Some(_)) => return Err(half(keys, token_file, role_arn)),
    };
    Ok(CloudConfig::Ecr {
        region,
        keys: pair,
        session_token,
        web_identity,
        urls: keys.urls(),
    })
}

/// True if an endpoint of ECR names its region, or has only one: AWS's own names all do, and
/// `AWS_REGION` says where roadstead runs, which may be elsewhere.
fn says_its_region(host: &str) -> bool {
    let ours = [
        ".amazonaws.com",
        ".amazonaws.com.cn",
        ".on.aws",
        ".on.amazonwebservices.com.cn",
    ];
    host == "public.ecr.aws" || ours.iter().any(|suffix| host.ends_with(suffix))
}

fn gar(keys: &Keys<'_>) -> Outcome<CloudConfig> {
    let key_file = match file(keys.table.key_file.as_ref(), keys.context)? {
        None => file_variable(keys, "GOOGLE_APPLICATION_CREDENTIALS")?,
        given => given,
    };
    Ok(CloudConfig::Gar {
        key_file,
        urls: keys.urls(),
    })
}

fn azure(keys: &Keys<'_>) -> Outcome<CloudConfig> {
    let table = keys.table;
    let source = source!(table, client_secret client_secret_file client_secret_env);
    let secret = source.given(keys.context)?.map(|(_, given)| &given.place);
    // A client id alone is a managed identity; the other two make it a service principal.
    match (&table.tenant_id, &table.client_id, secret) {
        (Some(tenant), _, None) => return Err(keys.needs(&tenant.place, "client_secret")),
        (None, _, Some(secret)) => return Err(keys.needs(secret, "tenant_id")),
        (Some(_), None, Some(secret)) => return Err(keys.needs(secret, "client_id")),
        (None, _, None) | (Some(_), Some(_), Some(_)) => {}
    }
    Ok(CloudConfig::AzureAcr {
        tenant: table.tenant_id.value(),
        client_id: table.client_id.value(),
        client_secret: source.text(keys.context)?,
        urls: keys.urls(),
    })
}

fn alibaba(keys: &Keys<'_>) -> Outcome<CloudConfig> {
    let table = keys.table;
    let id = source!(table, access_key_id access_key_id_file access_key_id_env);
    let secret = source!(table, access_key_secret access_key_secret_file access_key_secret_env);
    let pair = keys.pair(&id, &secret, "ram_role")?;
    Ok(CloudConfig::AlibabaAcr {
        region: table.region.value(),
        instance_id: table.instance_id.value(),
        session_token: keys.session_token(pair.is_some(), "access_key_id")?,
        keys: pair,
        role: table.ram_role.value(),
        urls: keys.urls(),
    })
}

fn tcr(keys: &Keys<'_>) -> Outcome<CloudConfig> {
    let table = keys.table;
    let required = |given: &Field<values::Text>, name: &str| {
        let why = "is missing; \"tcr\" needs it";
        let given = given.as_ref();
        let given = table.keys.required(given, name, why, keys.context)?;
        Ok(given.value.clone())
    };
    let (region, instance_id) = (
        required(&table.region, "region"),
        required(&table.instance_id, "instance_id"),
    );
    let id = source!(table, secret_id secret_id_file secret_id_env);
    let secret = source!(table, secret_key secret_key_file secret_key_env);
    let pair = keys.pair(&id, &secret, "cam_role")?;
    Ok(CloudConfig::Tcr {
        region: region?,
        instance_id: instance_id?,
        session_token: keys.session_token(pair.is_some(), "secret_id")?,
        keys: pair,
        role: table.cam_role.value(),
        urls: keys.urls(),
    })
}

/// Half of a web identity.
fn half(keys: &Keys<'_>, given: &str, missing: &str) -> Reported {
    match keys.table.keys.place_of(given) {
        Some(place) => keys.needs(place, missing),
        None => of_variable(keys, "AWS_ROLE_ARN", "needs AWS_WEB_IDENTITY_TOKEN_FILE"),
    }
}

/// Reports a fault of a variable of a vendor's tools.
fn of_variable(keys: &Keys<'_>, name: &str, why: impl Into<String>) -> Reported {
    let origin = Origin::Environment(name.to_owned());
    keys.context.wrong(&keys.table.keys.place.at(origin), why)
}

/// A variable of a vendor's tools. An empty one counts as not set.
fn variable(keys: &Keys<'_>, name: &str) -> Outcome<Option<String>> {
    let text = keys.context.environment.vendors(name);
    text.map_err(|problem| keys.context.report(problem))
}

fn variables(keys: &Keys<'_>, id: &str, secret: &str) -> Outcome<Option<(Text, Text)>> {
    let missing = |given: &str, missing: &str| of_variable(keys, given, format!("needs {missing}"));
    match (variable(keys, id)?, variable(keys, secret)?) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(missing(id, secret)),
        (None, Some(_)) => Err(missing(secret, id)),
        (Some(id), Some(secret)) => Ok(Some((literal(id), literal(secret)))),
    }
}

fn file_variable(keys: &Keys<'_>, name: &str) -> Outcome<Option<PathBuf>> {
    let Some(path) = variable(keys, name)?.map(PathBuf::from) else {
        return Ok(None);
    };
    can_be_read(&path).map_err(|why| of_variable(keys, name, why))?;
    Ok(Some(path))
}

fn literal(text: String) -> Text {
    Text::Literal(Secret::new(text))
}
