//! Alibaba Cloud Container Registry, Personal and Enterprise.
//!
//! Sources: Container Registry, API reference of 2016-06-07 (Personal) and of 2018-12-01 (Enterprise),
//! "`GetAuthorizationToken`"; Elastic Compute Service, "Access instance metadata".

use std::collections::BTreeMap;

use http::Method;

use super::alibaba_signature::{Roa, roa_authorization, rpc_query};
use super::call::{Call, Caller, Unit, service_url};
use super::input::{self, Keys};
use super::metadata::{Metadata, Session};
use super::{Fetched, basic, date, mac};
use crate::upstream::FetchError;
use crate::upstream::login::{CloudUrls, Text};

/// The configuration.
pub(super) struct Alibaba<'a> {
    pub(super) region: &'a Option<String>,
    pub(super) instance_id: &'a Option<String>,
    pub(super) keys: &'a Option<(Text, Text)>,
    pub(super) session_token: &'a Option<Text>,
    pub(super) role: &'a Option<String>,
    pub(super) urls: &'a CloudUrls,
}

impl Alibaba<'_> {
    /// A login to `registry`.
    ///
    /// # Errors
    /// [`FetchError::Login`], [`FetchError::Timeout`].
    pub(super) async fn login(
        &self,
        registry: &str,
        caller: Caller<'_>,
    ) -> Result<Fetched, FetchError> {
        let region = self
            .region
            .as_deref()
            .or_else(|| region_of(registry))
            .ok_or_else(|| {
                let why = "Alibaba ACR: the registry's host names no region: configure it";
                FetchError::Login(why.to_owned())
            })?;
        let api = format!("https://cr.{}.aliyuncs.com", input::region(region)?);
        let keys = self.keys(caller).await?;
        match self.instance_id.as_deref() {
            Some(instance) => self.enterprise(instance, &api, &keys, caller).await,
            None => self.personal(&api, &keys, caller).await,
        }
    }

    /// Those that are configured, or else those of the machine's role.
    ///
    /// # Errors
    /// [`FetchError::Login`], [`FetchError::Timeout`].
    pub(super) async fn keys(&self, caller: Caller<'_>) -> Result<Keys, FetchError> {
        if let Some(keys) = self.keys {
            return Keys::configured(keys, self.session_token.as_ref(), caller).await;
        }
        let metadata = Metadata {
            service: "Alibaba metadata",
            url: self.urls.metadata.as_ref(),
            usual_url: "http://100.100.100.200",
            roles: "/latest/meta-data/ram/security-credentials/",
            fields: ["AccessKeyId", "AccessKeySecret", "SecurityToken"],
            // The hardened mode; an instance may be without it, or with nothing else.
            session: Session::Preferred(
                "x-aliyun-ecs-metadata-token-ttl-seconds",
                "x-aliyun-ecs-metadata-token",
            ),
        };
        metadata.keys(self.role.as_deref(), caller).await
    }

    /// `GET /tokens`, signed as ROA.
    async fn personal(
        &self,
        api: &str,
        keys: &Keys,
        caller: Caller<'_>,
    ) -> Result<Fetched, FetchError> {
        let url = service_url(self.urls.api.as_ref(), api, TOKENS_PATH)?;
        let date = date::http(caller.now());
        let mut acs = BTreeMap::from([
            ("x-acs-signature-method", "HMAC-SHA1".to_owned()),
            ("x-acs-signature-nonce", nonce()?),
            ("x-acs-signature-version", "1.0".to_owned()),
            ("x-acs-version", "2016-06-07".to_owned()),
        ]);
        if let Some(token) = &keys.token {
            acs.insert("x-acs-security-token", token.expose().to_owned());
        }
        let roa = Roa {
            method: "GET",
            accept: JSON_TYPE,
            content_md5: EMPTY_MD5,
            content_type: JSON_TYPE,
            date: &date,
            acs: &acs,
            resource: TOKENS_PATH,
        };
        let mut call = Call::new(SERVICE, Method::GET, url)
            .with("accept", roa.accept)
            .with("content-md5", roa.content_md5)
            .with("content-type", roa.content_type)
            .with("date", roa.date)
            .with("authorization", &roa_authorization(keys, &roa));
        for (name, value) in &acs {
            call = call.with(name, value);
        }
        let answer = caller.send(call).await?.json()?;
        let username = answer.text("/data/tempUserName")?;
        let password = answer.text("/data/authorizationToken")?;
        Ok(Fetched {
            login: basic(username, password),
            good_for: answer.life_until("/data/expireDate", Unit::Milliseconds, caller.now())?,
        })
    }

    /// `GetAuthorizationToken`, signed as RPC.
    async fn enterprise(
        &self,
        instance: &str,
        api: &str,
        keys: &Keys,
        caller: Caller<'_>,
    ) -> Result<Fetched, FetchError> {
        let (time, nonce) = (date::rfc3339(caller.now()), nonce()?);
        let mut parameters = BTreeMap::from([
            ("AccessKeyId", keys.id.expose()),
            ("Action", "GetAuthorizationToken"),
            ("Format", "JSON"),
            ("InstanceId", instance),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureNonce", nonce.as_str()),
            ("SignatureVersion", "1.0"),
            ("Timestamp", time.as_str()),
            ("Version", "2018-12-01"),
        ]);
        if let Some(token) = &keys.token {
            parameters.insert("SecurityToken", token.expose());
        }
        let mut url = service_url(self.urls.api.as_ref(), api, "/")?;
        url.set_query(Some(&rpc_query("GET", &parameters, keys.secret.expose())));
        let call = Call::new(SERVICE, Method::GET, url).with("accept", JSON_TYPE);
        let answer = caller.send(call).await?.json()?;
        if answer
            .at("/IsSuccess")
            .is_some_and(|success| success == false)
        {
            return Err(answer.failed());
        }
        let username = answer.text("/TempUsername")?;
        let password = answer.text("/AuthorizationToken")?;
        Ok(Fetched {
            login: basic(username, password),
            good_for: answer.life_until("/ExpireTime", Unit::Milliseconds, caller.now())?,
        })
    }
}

/// `registry[-vpc|-internal].REGION.aliyuncs.com`, `INSTANCE-registry[-vpc].REGION.cr.aliyuncs.com`,
/// and Personal's newer `crpi-…[-vpc].REGION.personal.cr.aliyuncs.com`.
fn region_of(registry: &str) -> Option<&str> {
    let host = input::host(registry).strip_suffix(".aliyuncs.com")?;
    let host = host.strip_suffix(".cr").unwrap_or(host);
    let host = host.strip_suffix(".personal").unwrap_or(host);
    let (_, region) = host.split_once('.')?;
    Some(region)
}

/// A number used once, so that a request cannot be sent again by who has seen it.
fn nonce() -> Result<String, FetchError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| FetchError::Login("the system gives no random numbers".to_owned()))?;
    Ok(mac::hex(&bytes))
}

const SERVICE: &str = "Alibaba ACR";
const TOKENS_PATH: &str = "/tokens";
const JSON_TYPE: &str = "application/json";
/// Base64 of the MD5 of no bytes.
const EMPTY_MD5: &str = "1B2M2Y8AsgTpgAmY7PhCfg==";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_in_the_hosts_name() {
        let cases = [
            ("registry.cn-hangzhou.aliyuncs.com", Some("cn-hangzhou")),
            (
                "registry-vpc.cn-beijing.aliyuncs.com:443",
                Some("cn-beijing"),
            ),
            (
                "registry-internal.cn-beijing.aliyuncs.com",
                Some("cn-beijing"),
            ),
            (
                "acme-registry.cn-shanghai.cr.aliyuncs.com",
                Some("cn-shanghai"),
            ),
            (
                "acme-registry-vpc.ap-southeast-1.cr.aliyuncs.com",
                Some("ap-southeast-1"),
            ),
            (
                "crpi-a1-vpc.cn-hangzhou.personal.cr.aliyuncs.com",
                Some("cn-hangzhou"),
            ),
            ("aliyuncs.com", None),
            ("registry.example", None),
            ("cr.aliyuncs.com", None),
        ];
        for (registry, region) in cases {
            assert_eq!(region_of(registry), region, "{registry}");
        }
    }
}
