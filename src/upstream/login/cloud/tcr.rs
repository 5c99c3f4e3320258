//! Tencent Container Registry, Enterprise.
//!
//! Sources: Tencent Container Registry, API 3.0 of 2019-09-24, "`CreateInstanceToken`"; Cloud Virtual
//! Machine, "Managing roles" (metadata).

use serde_json::{Value, json};

use super::call::{Call, Caller, Json, Unit, host_header, service_url};
use super::input::{self, Keys};
use super::metadata::{Metadata, Session};
use super::{Fetched, basic, tc3};
use crate::upstream::FetchError;
use crate::upstream::login::{CloudUrls, Text};

/// The configuration.
pub(super) struct Tcr<'a> {
    pub(super) region: &'a str,
    pub(super) instance_id: &'a str,
    pub(super) keys: &'a Option<(Text, Text)>,
    pub(super) session_token: &'a Option<Text>,
    pub(super) role: &'a Option<String>,
    pub(super) urls: &'a CloudUrls,
}

impl Tcr<'_> {
    /// A login to the instance.
    ///
    /// # Errors
    /// [`FetchError::Login`], [`FetchError::Timeout`].
    pub(super) async fn login(&self, caller: Caller<'_>) -> Result<Fetched, FetchError> {
        let keys = self.keys(caller).await?;
        let answer = self.instance_token(&keys, caller).await?;
        // The documentation calls it a text and shows a number.
        let username = match answer.at("/Response/Username") {
            Some(Value::Number(number)) => number.to_string(),
            _ => answer.text("/Response/Username")?.to_owned(),
        };
        let password = answer.text("/Response/Token")?;
        Ok(Fetched {
            login: basic(&username, password),
            good_for: answer.life_until("/Response/ExpTime", Unit::Milliseconds, caller.now())?,
        })
    }

    async fn keys(&self, caller: Caller<'_>) -> Result<Keys, FetchError> {
        if let Some(keys) = self.keys {
            return Keys::configured(keys, self.session_token.as_ref(), caller).await;
        }
        let metadata = Metadata {
            service: "Tencent metadata",
            url: self.urls.metadata.as_ref(),
            usual_url: "http://metadata.tencentyun.com",
            roles: "/latest/meta-data/cam/security-credentials/",
            fields: ["TmpSecretId", "TmpSecretKey", "Token"],
            session: Session::None,
        };
        metadata.keys(self.role.as_deref(), caller).await
    }

    async fn instance_token(&self, keys: &Keys, caller: Caller<'_>) -> Result<Json, FetchError> {
        let usual = "https://tcr.tencentcloudapi.com";
        let url = service_url(self.urls.api.as_ref(), usual, "/")?;
        let body = json!({"RegistryId": self.instance_id, "TokenType": "temp"}).to_string();
        let now = caller.now();
        let request = tc3::Request {
            service: "tcr",
            host: &host_header(&url),
            content_type: JSON_TYPE,
            body: body.as_bytes(),
        };
        let authorization = tc3::authorization(keys, &request, now);
        let mut call = Call::post("Tencent TCR", url, JSON_TYPE, body)
            .with("authorization", &authorization)
            .with("x-tc-action", "CreateInstanceToken")
            .with("x-tc-version", "2019-09-24")
            .with("x-tc-timestamp", &(now.0 / 1000).to_string())
            .with("x-tc-region", input::region(self.region)?);
        if let Some(token) = &keys.token {
            call = call.with("x-tc-token", token.expose());
        }
        let answer = caller.send(call).await?.json()?;
        // Errors come with status 200.
        if answer.at("/Response/Error").is_some() {
            return Err(answer.failed());
        }
        Ok(answer)
    }
}

const JSON_TYPE: &str = "application/json; charset=utf-8";
