//! Logins of cloud registries.

use std::path::PathBuf;

use super::keys::{Keys, can_be_read, file, sources};
use crate::config::error::Problem;
use crate::config::raw::Origin;
use crate::config::values;
use crate::upstream::{CloudConfig, CloudUrls, Secret, Text};

/// The login of an entry that names a `provider`. `hosts`: those of the endpoints it is for.
pub(super) fn login(keys: &Keys<'_>, hosts: &[&str]) -> Result<CloudConfig, Problem> {
    let name = keys.value("provider", values::text)?.unwrap_or_default();
    let Some((_, known)) = PROVIDERS.iter().find(|(known, _)| *known == name) else {
        let names: Vec<_> = PROVIDERS.iter().map(|(name, _)| *name).collect();
        let why = format!("must be one of \"{}\"", names.join("\", \""));
        return Err(match keys.leaf("provider") {
            Some(leaf) => keys.problem("provider", leaf, why),
            None => keys.incomplete("provider", why),
        });
    };
    keys.only(known)?;
    match name.as_str() {
        "ecr" => ecr(keys, hosts),
        "gar" => gar(keys),
        "acr-azure" => azure(keys),
        "acr-alibaba" => alibaba(keys),
        _ => tcr(keys),
    }
}

fn ecr(keys: &Keys<'_>, hosts: &[&str]) -> Result<CloudConfig, Problem> {
    let (role_arn, token_file) = ("role_arn", "web_identity_token_file");
    let mut pair = key_pair(keys, "access_key_id", "secret_access_key", role_arn)?;
    let mut session_token = session_token(keys, pair.is_some(), "access_key_id")?;
    let mut role = keys.value(role_arn, values::text)?;
    let mut token = keys.value(token_file, file)?;
    let region = match keys.value("region", values::text)? {
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
        urls: urls(keys)?,
    })
}

/// Whether an endpoint of ECR names its region, or has only one: AWS's own names all do, and
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

fn gar(keys: &Keys<'_>) -> Result<CloudConfig, Problem> {
    let key_file = match keys.value("key_file", file)? {
        None => file_variable(keys, "GOOGLE_APPLICATION_CREDENTIALS")?,
        given => given,
    };
    Ok(CloudConfig::Gar {
        key_file,
        urls: urls(keys)?,
    })
}

fn azure(keys: &Keys<'_>) -> Result<CloudConfig, Problem> {
    let tenant = keys.value("tenant_id", values::text)?;
    let client_id = keys.value("client_id", values::text)?;
    let secret = keys.source("client_secret")?;
    // A client id alone is a managed identity; the other two make it a service principal.
    let lacks = |name: &str, needs: &str| {
        keys.leaf(name)
            .map(|leaf| keys.problem(name, leaf, format!("needs {needs}")))
    };
    let problem = match (&tenant, &client_id, &secret) {
        (Some(_), _, None) => lacks("tenant_id", "client_secret"),
        (None, _, Some(secret)) => lacks(&secret.name, "tenant_id"),
        (Some(_), None, Some(secret)) => lacks(&secret.name, "client_id"),
        (None, _, None) | (Some(_), Some(_), Some(_)) => None,
    };
    if let Some(problem) = problem {
        return Err(problem);
    }
    Ok(CloudConfig::AzureAcr {
        tenant,
        client_id,
        client_secret: keys.text("client_secret")?,
        urls: urls(keys)?,
    })
}

fn alibaba(keys: &Keys<'_>) -> Result<CloudConfig, Problem> {
    let pair = key_pair(keys, "access_key_id", "access_key_secret", "ram_role")?;
    Ok(CloudConfig::AlibabaAcr {
        region: keys.value("region", values::text)?,
        instance_id: keys.value("instance_id", values::text)?,
        session_token: session_token(keys, pair.is_some(), "access_key_id")?,
        keys: pair,
        role: keys.value("ram_role", values::text)?,
        urls: urls(keys)?,
    })
}

fn tcr(keys: &Keys<'_>) -> Result<CloudConfig, Problem> {
    let required = |name: &str| {
        keys.value(name, values::text)?
            .ok_or_else(|| keys.incomplete(name, "is missing; \"tcr\" needs it"))
    };
    let pair = key_pair(keys, "secret_id", "secret_key", "cam_role")?;
    Ok(CloudConfig::Tcr {
        region: required("region")?,
        instance_id: required("instance_id")?,
        session_token: session_token(keys, pair.is_some(), "secret_id")?,
        keys: pair,
        role: keys.value("cam_role", values::text)?,
        urls: urls(keys)?,
    })
}

/// A cloud's access key, or else a role of that name.
fn key_pair(
    keys: &Keys<'_>,
    id: &str,
    secret: &str,
    role: &str,
) -> Result<Option<(Text, Text)>, Problem> {
    keys.one_of(&[&sources(id), &[role.to_owned()]])?;
    let pair = keys.pair(id, secret)?;
    Ok(pair.map(|(id, secret)| (id.text(), secret.text())))
}

/// The token that belongs to temporary keys.
fn session_token(keys: &Keys<'_>, has_keys: bool, id: &str) -> Result<Option<Text>, Problem> {
    match keys.source("session_token")? {
        Some(token) if !has_keys => {
            Err(keys.problem(&token.name, token.leaf, format!("needs {id}")))
        }
        _ => keys.text("session_token"),
    }
}

fn urls(keys: &Keys<'_>) -> Result<CloudUrls, Problem> {
    Ok(CloudUrls {
        api: keys.value("api_url", values::service_url)?,
        identity: keys.value("identity_url", values::service_url)?,
        metadata: keys.value("metadata_url", values::service_url)?,
    })
}

/// Half of a web identity.
fn half(keys: &Keys<'_>, given: &str, missing: &str) -> Problem {
    match keys.leaf(given) {
        Some(leaf) => keys.problem(given, leaf, format!("needs {missing}")),
        None => of_variable(keys, "AWS_ROLE_ARN", "needs AWS_WEB_IDENTITY_TOKEN_FILE"),
    }
}

/// What is wrong with a variable of a vendor's tools.
fn of_variable(keys: &Keys<'_>, name: &str, why: impl Into<String>) -> Problem {
    let origin = Origin::Environment(name.to_owned());
    Problem::new(&origin, keys.path(), why)
}

/// A variable of a vendor's tools. An empty one counts as not set.
fn variable(keys: &Keys<'_>, name: &str) -> Result<Option<String>, Problem> {
    keys.environment.vendors(name)
}

fn variables(keys: &Keys<'_>, id: &str, secret: &str) -> Result<Option<(Text, Text)>, Problem> {
    let missing = |given: &str, missing: &str| of_variable(keys, given, format!("needs {missing}"));
    match (variable(keys, id)?, variable(keys, secret)?) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(missing(id, secret)),
        (None, Some(_)) => Err(missing(secret, id)),
        (Some(id), Some(secret)) => Ok(Some((literal(id), literal(secret)))),
    }
}

fn file_variable(keys: &Keys<'_>, name: &str) -> Result<Option<PathBuf>, Problem> {
    let Some(path) = variable(keys, name)?.map(PathBuf::from) else {
        return Ok(None);
    };
    can_be_read(&path).map_err(|why| of_variable(keys, name, why))?;
    Ok(Some(path))
}

fn literal(text: String) -> Text {
    Text::Literal(Secret::new(text))
}

/// Each provider and its keys.
pub(super) const PROVIDERS: &[(&str, &[&str])] = &[
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
