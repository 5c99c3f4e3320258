//! AWS Elastic Container Registry, private and public.
//!
//! Sources: Amazon ECR API reference, "`GetAuthorizationToken`"; Amazon ECR Public API reference, the
//! same; AWS STS API reference, "`AssumeRoleWithWebIdentity`"; Amazon EC2 user guide, "Use the Instance
//! Metadata Service".

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::call::{Call, Caller, Json, Unit, host_header, service_url};
use super::input::{self, Keys};
use super::metadata::{Metadata, Session};
use super::{Fetched, basic, date, sigv4};
use crate::upstream::login::{CloudUrls, Text};
use crate::upstream::{FetchError, Secret};

/// The configuration.
pub(super) struct Ecr<'a> {
    pub(super) region: &'a Option<String>,
    pub(super) keys: &'a Option<(Text, Text)>,
    pub(super) session_token: &'a Option<Text>,
    pub(super) web_identity: &'a Option<(String, PathBuf)>,
    pub(super) urls: &'a CloudUrls,
}

impl Ecr<'_> {
    /// A login to `registry`.
    ///
    /// # Errors
    /// [`FetchError::Login`], [`FetchError::Timeout`].
    pub(super) async fn login(
        &self,
        registry: &str,
        caller: Caller<'_>,
    ) -> Result<Fetched, FetchError> {
        let place = Place::of(self.region.as_deref(), registry)?;
        let keys = self.keys(&place, caller).await?;
        let answer = self.authorization_token(&place, &keys, caller).await?;
        let data = place.data;
        let token = answer.text(&format!("{data}/authorizationToken"))?;
        let pair = BASE64
            .decode(token)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let (username, password) = pair
            .as_deref()
            .and_then(|pair| pair.split_once(':'))
            .ok_or_else(|| answer.wrong("the token is not a user name and password"))?;
        let expires = format!("{data}/expiresAt");
        Ok(Fetched {
            login: basic(username, password),
            good_for: answer.life_until(&expires, Unit::Seconds, caller.now())?,
        })
    }

    /// Keys for another service of a region.
    ///
    /// # Errors
    /// [`FetchError::Login`], [`FetchError::Timeout`].
    pub(super) async fn keys_in(
        &self,
        region: &str,
        caller: Caller<'_>,
    ) -> Result<Keys, FetchError> {
        let place = Place::of(Some(region), "")?;
        self.keys(&place, caller).await
    }

    /// Those that are configured, or else those of the web identity's role, or else those of the
    /// machine's role.
    async fn keys(&self, place: &Place<'_>, caller: Caller<'_>) -> Result<Keys, FetchError> {
        if let Some(keys) = self.keys {
            return Keys::configured(keys, self.session_token.as_ref(), caller).await;
        }
        if let Some((role, token_file)) = self.web_identity {
            let token = input::file(token_file, caller).await?;
            return self.assume_role(place, role, &token, caller).await;
        }
        let metadata = Metadata {
            service: "AWS metadata",
            url: self.urls.metadata.as_ref(),
            usual_url: "http://169.254.169.254",
            roles: "/latest/meta-data/iam/security-credentials/",
            fields: ["AccessKeyId", "SecretAccessKey", "Token"],
            session: Session::Required(
                "x-aws-ec2-metadata-token-ttl-seconds",
                "x-aws-ec2-metadata-token",
            ),
        };
        metadata.keys(None, caller).await
    }

    /// STS `AssumeRoleWithWebIdentity`, which is not signed: the token is the proof.
    async fn assume_role(
        &self,
        place: &Place<'_>,
        role: &str,
        token: &Secret,
        caller: Caller<'_>,
    ) -> Result<Keys, FetchError> {
        let usual = format!("https://sts.{}.{}", place.region, place.domain());
        let url = service_url(self.urls.identity.as_ref(), &usual, "/")?;
        let form = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", role),
            ("RoleSessionName", "roadstead"),
            ("WebIdentityToken", token.expose()),
        ];
        let answer = caller.send(Call::form("AWS STS", url, &form)).await?;
        let take = |name: &str| answer.element(name).map(Secret::new);
        Ok(Keys {
            id: take("AccessKeyId")?,
            secret: take("SecretAccessKey")?,
            token: Some(take("SessionToken")?),
        })
    }

    async fn authorization_token(
        &self,
        place: &Place<'_>,
        keys: &Keys,
        caller: Caller<'_>,
    ) -> Result<Json, FetchError> {
        let usual = format!(
            "https://api.{}.{}.{}",
            place.service,
            place.region,
            place.domain()
        );
        let url = service_url(self.urls.api.as_ref(), &usual, "/")?;
        let (host, body, now) = (host_header(&url), "{}", caller.now());
        let time = date::basic(now);
        let mut headers = vec![
            ("content-type", JSON_TYPE),
            ("x-amz-date", time.as_str()),
            ("x-amz-target", place.target),
        ];
        if let Some(token) = &keys.token {
            headers.push(("x-amz-security-token", token.expose()));
        }
        let mut call = Call::post(place.title, url, JSON_TYPE, body.to_owned());
        for (name, value) in &headers {
            call = call.with(name, value);
        }
        headers.push(("host", &host));
        let request = sigv4::Request {
            method: "POST",
            headers: &headers,
            body: body.as_bytes(),
        };
        let scope = sigv4::Scope {
            region: place.region,
            service: place.service,
        };
        let authorization = sigv4::authorization(keys, &scope, &request, now);
        let call = call.with("authorization", &authorization);
        caller.send(call).await?.json()
    }
}

/// The API that gives the token, and its call.
struct Place<'a> {
    /// As users know it.
    title: &'static str,
    region: &'a str,
    /// The service's name, in the host's name and in the signature.
    service: &'static str,
    target: &'static str,
    /// The place of the token in the answer.
    data: &'static str,
}

impl<'a> Place<'a> {
    fn of(region: Option<&'a str>, registry: &'a str) -> Result<Self, FetchError> {
        if input::host(registry) == "public.ecr.aws" {
            // The public registry has its API there alone.
            return Ok(Self {
                title: "ECR Public",
                region: "us-east-1",
                service: "ecr-public",
                target: "SpencerFrontendService.GetAuthorizationToken",
                data: "/authorizationData",
            });
        }
        let region = region.or_else(|| region_of(registry)).ok_or_else(|| {
            FetchError::Login("ECR: the registry's host names no region: configure it".to_owned())
        })?;
        Ok(Self {
            title: "ECR",
            region: input::region(region)?,
            service: "ecr",
            target: "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
            data: "/authorizationData/0",
        })
    }

    /// The domain of the region's services.
    fn domain(&self) -> &'static str {
        if self.region.starts_with("cn-") {
            "amazonaws.com.cn"
        } else {
            "amazonaws.com"
        }
    }
}

/// `ACCOUNT.dkr.ecr.REGION.amazonaws.com[.cn]`, with FIPS `ecr-fips`; dual stack
/// `ACCOUNT.dkr-ecr.REGION.on.aws`, with FIPS `dkr-ecr-fips`.
fn region_of(registry: &str) -> Option<&str> {
    let mut labels = input::host(registry).split('.').skip(1);
    match labels.next()? {
        "dkr" => {
            let service = labels.next()?;
            matches!(service, "ecr" | "ecr-fips").then_some(())?;
        }
        "dkr-ecr" | "dkr-ecr-fips" => {}
        _ => return None,
    }
    let region = labels.next()?;
    labels.next().map(|_| region)
}

/// AWS JSON protocol, version 1.1.
const JSON_TYPE: &str = "application/x-amz-json-1.1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_in_the_hosts_name() {
        let cases = [
            ("1.dkr.ecr.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("1.dkr.ecr.eu-west-1.amazonaws.com:443", Some("eu-west-1")),
            ("1.dkr.ecr.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            (
                "1.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
                Some("us-gov-west-1"),
            ),
            ("1.dkr-ecr.eu-west-1.on.aws", Some("eu-west-1")),
            ("registry.example", None),
            ("a.dkr.ecr", None),
            ("a.dkr.ecr.x", None),
            ("", None),
        ];
        for (registry, region) in cases {
            assert_eq!(region_of(registry), region, "{registry}");
        }
    }

    #[test]
    fn a_region_is_one_label_and_must_be_known() {
        let place = |region, registry| Place::of(region, registry).map(|place| place.domain());
        assert_eq!(place(Some("eu-west-1"), "x"), Ok("amazonaws.com"));
        assert_eq!(place(Some("cn-north-1"), "x"), Ok("amazonaws.com.cn"));
        assert_eq!(place(None, "public.ecr.aws"), Ok("amazonaws.com"));
        for wrong in [None, Some("evil.example/"), Some(""), Some("EU")] {
            assert!(place(wrong, "x").is_err(), "{wrong:?}");
        }
    }
}
