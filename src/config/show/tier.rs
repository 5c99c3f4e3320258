//! `[tier]` as it is shown.

use super::{duration, line, quoted, shown, table};
use crate::config::values::Redirects;
use crate::tier::{Config, Encryption};
use crate::upstream::{StorageLogin, Text};

/// Nothing where there is no such table.
pub(super) fn show(out: &mut String, config: Option<&Config>) {
    let Some(config) = config else {
        return;
    };
    table(out, "tier");
    line(out, "url", &quoted(&config.place.to_string()));
    let access = &config.access;
    if let Some(endpoint) = &access.endpoint {
        line(out, "endpoint", &quoted(endpoint.as_str()));
    }
    if let Some(region) = &access.region {
        line(out, "region", &quoted(region));
    }
    line(out, "virtual_hosted", &access.virtual_hosted.to_string());
    if let Some(account) = &access.account {
        line(out, "account", &quoted(account));
    }
    if let Some(file) = &access.ca_file {
        line(out, "ca_file", &shown(file));
    }
    login(out, &config.login);
    if let Some(file) = &config.secret_file {
        line(out, "secret_file", &shown(file));
    }
    let write = &config.write;
    line(out, "write", &write.enabled.to_string());
    if let Some(class) = &write.storage_class {
        line(out, "storage_class", &quoted(class));
    }
    match &write.encryption {
        None => {}
        Some(Encryption::Aes256) => line(out, "encryption", &quoted("AES256")),
        Some(Encryption::Kms(key)) => {
            line(out, "encryption", &quoted("aws:kms"));
            if let Some(key) = key {
                line(out, "kms_key_id", &quoted(key));
            }
        }
    }
    if let Some(renew) = write.renew {
        line(out, "renew", &duration(renew));
    }
    let redirect = &config.redirect;
    line(out, "redirect", &quoted(Redirects::name(redirect.when)));
    if let Some(endpoint) = &redirect.endpoint {
        line(out, "public_endpoint", &quoted(endpoint.as_str()));
    }
    if !redirect.networks.is_empty() {
        let networks = redirect.networks.iter().map(|it| quoted(&it.to_string()));
        let networks: Vec<String> = networks.collect();
        line(out, "redirect_to", &format!("[{}]", networks.join(", ")));
    }
}

fn login(out: &mut String, login: &StorageLogin) {
    let mut text = |name: &str, text: &Text| match text {
        Text::Literal(_) => line(out, name, &quoted("***")),
        Text::File(path) => line(out, &format!("{name}_file"), &shown(path)),
    };
    match login {
        StorageLogin::Pair {
            id,
            secret,
            session_token,
        } => {
            text("access_key_id", id);
            text("secret_access_key", secret);
            if let Some(token) = session_token {
                text("session_token", token);
            }
        }
        StorageLogin::Account { key } => text("secret_access_key", key),
        StorageLogin::Aws { web_identity, .. } => {
            if let Some((role, token)) = web_identity {
                line(out, "role_arn", &quoted(role));
                line(out, "web_identity_token_file", &shown(token));
            }
        }
        StorageLogin::Alibaba { role, .. } => {
            if let Some(role) = role {
                line(out, "ram_role", &quoted(role));
            }
        }
        StorageLogin::Google { key_file, .. } => {
            if let Some(file) = key_file {
                line(out, "key_file", &shown(file));
            }
        }
        StorageLogin::Azure {
            tenant,
            client_id,
            client_secret,
            ..
        } => {
            if let Some(tenant) = tenant {
                line(out, "tenant_id", &quoted(tenant));
            }
            if let Some(id) = client_id {
                line(out, "client_id", &quoted(id));
            }
            if let Some(Text::File(path)) = client_secret {
                line(out, "client_secret_file", &shown(path));
            }
        }
    }
}
