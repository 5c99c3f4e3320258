//! Azure Container Registry: a Microsoft Entra (Azure AD) access token is exchanged for a refresh token
//! of the registry, which is then the password of a user without a name.
//!
//! It is given as a password and not as a refresh token, although it is one: the registry's token
//! server takes it both ways, and as a password it also answers a Basic challenge, as the
//! `credential provider` of every AKS node does it.
//!
//! Sources: Azure/acr, "Azure Container Registry integration with Azure Active Directory"; Microsoft
//! identity platform, "OAuth 2.0 client credentials flow"; "How to use managed identities for Azure
//! resources on an Azure VM to acquire an access token".

use std::time::Duration;

use http::Method;

use super::call::{Call, Caller, Json, service_url};
use super::{Fetched, basic, input, jwt};
use crate::clock::Timestamp;
use crate::upstream::login::{CloudUrls, Text};
use crate::upstream::{FetchError, Secret};

/// The configuration.
pub(super) struct Azure<'a> {
    pub(super) tenant: &'a Option<String>,
    pub(super) client_id: &'a Option<String>,
    pub(super) client_secret: &'a Option<Text>,
    pub(super) urls: &'a CloudUrls,
}

impl Azure<'_> {
    /// A login to `registry`.
    ///
    /// # Errors
    /// [`FetchError::Login`], [`FetchError::Timeout`].
    pub(super) async fn login(
        &self,
        registry: &str,
        caller: Caller<'_>,
    ) -> Result<Fetched, FetchError> {
        let token = self.token(authority(registry), RESOURCE, caller).await?;
        let access_token = token.text("/access_token")?;
        let usual = format!("https://{registry}");
        let url = service_url(self.urls.api.as_ref(), &usual, "/oauth2/exchange")?;
        let mut form = vec![
            ("grant_type", "access_token"),
            ("service", input::host(registry)),
            ("access_token", access_token),
        ];
        form.extend(self.tenant.as_deref().map(|tenant| ("tenant", tenant)));
        let answer = caller.send(Call::form("Azure ACR", url, &form)).await?;
        let answer = answer.json()?;
        let refresh_token = answer.text("/refresh_token")?;
        let good_for = life(refresh_token, caller.now())
            .ok_or_else(|| answer.wrong("the token has expired already (or the clock is wrong)"))?;
        Ok(Fetched {
            login: basic(NOBODY, refresh_token),
            good_for,
        })
    }

    /// The answer with an access token for a service, which is named as its audience ends, with a slash.
    ///
    /// # Errors
    /// [`FetchError::Login`], [`FetchError::Timeout`].
    pub(super) async fn token(
        &self,
        authority: &str,
        audience: &str,
        caller: Caller<'_>,
    ) -> Result<Json, FetchError> {
        match self.client_secret {
            Some(secret) => {
                self.service_principal(authority, audience, secret, caller)
                    .await
            }
            None => self.managed_identity(audience, caller).await,
        }
    }

    async fn service_principal(
        &self,
        authority: &str,
        audience: &str,
        secret: &Text,
        caller: Caller<'_>,
    ) -> Result<Json, FetchError> {
        let (Some(tenant), Some(client_id)) = (self.tenant.as_deref(), self.client_id.as_deref())
        else {
            let why = "Azure: a client secret needs a tenant and a client id";
            return Err(FetchError::Login(why.to_owned()));
        };
        // A tenant is a GUID or a domain.
        let sane = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        if tenant.starts_with('.') || !tenant.bytes().all(sane) {
            return Err(FetchError::Login("Azure: the tenant is not one".to_owned()));
        }
        let secret: Secret = input::text(secret, caller).await?;
        let path = format!("/{tenant}/oauth2/v2.0/token");
        let url = service_url(self.urls.identity.as_ref(), authority, &path)?;
        // As version 2.0 of the platform's endpoint wants it.
        let scope = format!("{audience}.default");
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", client_id),
            ("client_secret", secret.expose()),
            ("scope", &scope),
        ];
        let call = Call::form("Azure AD", url, &form);
        caller.send(call).await?.json()
    }

    async fn managed_identity(
        &self,
        audience: &str,
        caller: Caller<'_>,
    ) -> Result<Json, FetchError> {
        let usual = "http://169.254.169.254";
        let path = "/metadata/identity/oauth2/token";
        let mut url = service_url(self.urls.metadata.as_ref(), usual, path)?;
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("api-version", "2018-02-01");
            query.append_pair("resource", audience);
            if let Some(client_id) = self.client_id {
                query.append_pair("client_id", client_id);
            }
        }
        let call = Call::new("Azure metadata", Method::GET, url).with("metadata", "true");
        caller.send(call).await?.json()
    }
}

/// The host at which service principals of the registry's cloud log in.
fn authority(registry: &str) -> &'static str {
    let host = input::host(registry);
    if host.ends_with(".azurecr.cn") {
        "https://login.chinacloudapi.cn"
    } else if host.ends_with(".azurecr.us") {
        "https://login.microsoftonline.us"
    } else {
        "https://login.microsoftonline.com"
    }
}

/// Life of a refresh token; `None`: it is over.
fn life(token: &str, now: Timestamp) -> Option<Duration> {
    let Some(end) = jwt::expiry(token) else {
        return Some(LIFE);
    };
    let left = Timestamp(end.saturating_mul(1000)).since(now);
    (!left.is_zero()).then(|| left.min(LIFE))
}

/// The user of a token that says itself whose it is.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";
/// The audience of the registries, in all of Azure's clouds. Azure Resource Manager's
/// (`management.azure.com`) works, too, but can be switched off for a registry
/// (`az acr config authentication-as-arm`).
const RESOURCE: &str = "https://containerregistry.azure.net/";
/// The documented life of a refresh token, 3 hours, less what the clocks may differ. Taken where the
/// token does not say, and never exceeded.
const LIFE: Duration = Duration::from_mins(170);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_azures_clouds_has_its_authority() {
        let cases = [
            ("a.azurecr.io", "https://login.microsoftonline.com"),
            ("a.azurecr.cn", "https://login.chinacloudapi.cn"),
            ("a.azurecr.us:443", "https://login.microsoftonline.us"),
        ];
        for (registry, expected) in cases {
            assert_eq!(authority(registry), expected);
        }
    }
}
