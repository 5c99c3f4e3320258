//! The configuration of a login.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::upstream::Secret;

/// The source of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// It is written in the configuration, or was in the environment at start.
    Literal(Secret),
    /// It is in this file, which is read again when it changes; line ends at its end are dropped.
    File(PathBuf),
}

/// One entry of a pool of logins.
#[expect(
    clippy::large_enum_variant,
    reason = "there are a few, made at the start"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginConfig {
    /// A user name and password.
    Password {
        /// The user name.
        username: Text,
        /// The password.
        password: Text,
    },
    /// A Docker client's configuration: `auths`, `credsStore`, `credHelpers`. Read again when it changes.
    DockerConfig(PathBuf),
    /// A program that answers as a `docker-credential` helper does (the registry on standard input,
    /// `{"Username","Secret"}` on standard output), run again before what it gave expires.
    Exec {
        /// The program and its arguments, run as they are, without a shell. A helper of Docker's wants
        /// `get` as its argument.
        command: Vec<String>,
        /// The longest time that it may take.
        timeout: Duration,
        /// Time for which its login is used, unless its answer holds `ExpiresIn` (seconds) or `ExpiresAt`
        /// (RFC 3339).
        ttl: Duration,
    },
    /// A cloud's own way.
    Cloud(CloudConfig),
}

/// Cloud registries whose passwords are temporary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloudConfig {
    /// AWS ECR. Keys from the configuration, or else from the web identity (IRSA), or else from `IMDSv2`.
    Ecr {
        /// The region; `None`: from the registry's host name.
        region: Option<String>,
        /// Access key id and secret access key.
        keys: Option<(Text, Text)>,
        /// The token of temporary keys.
        session_token: Option<Text>,
        /// Role and token file of a web identity (IRSA).
        web_identity: Option<(String, PathBuf)>,
        /// Other addresses of the services, for VPC endpoints and tests.
        urls: CloudUrls,
    },
    /// Google Artifact Registry. A service account's key, or else the metadata server.
    Gar {
        /// The JSON key of a service account.
        key_file: Option<PathBuf>,
        /// Other addresses of the services.
        urls: CloudUrls,
    },
    /// Azure Container Registry: an Azure AD access token, from a service principal or else the managed
    /// identity, is exchanged for a refresh token of the registry.
    AzureAcr {
        /// The tenant of the service principal.
        tenant: Option<String>,
        /// The client id of the service principal, or of a user-assigned managed identity.
        client_id: Option<String>,
        /// The secret of the service principal.
        client_secret: Option<Text>,
        /// Other addresses of the services.
        urls: CloudUrls,
    },
    /// Alibaba Cloud ACR: Personal, or Enterprise when an instance is named.
    AlibabaAcr {
        /// The region; `None`: from the registry's host name.
        region: Option<String>,
        /// The Enterprise instance (`cri-…`).
        instance_id: Option<String>,
        /// `AccessKey` id and secret; `None`: the RAM role of the metadata service.
        keys: Option<(Text, Text)>,
        /// The token of temporary keys (STS).
        session_token: Option<Text>,
        /// The RAM role; `None`: the one the metadata service names.
        role: Option<String>,
        /// Other addresses of the services.
        urls: CloudUrls,
    },
    /// Tencent TCR Enterprise.
    Tcr {
        /// The region.
        region: String,
        /// The instance (`tcr-…`).
        instance_id: String,
        /// `SecretId` and `SecretKey`; `None`: the CAM role of the metadata service.
        keys: Option<(Text, Text)>,
        /// The token of temporary keys.
        session_token: Option<Text>,
        /// The CAM role of the metadata service.
        role: Option<String>,
        /// Other addresses of the services.
        urls: CloudUrls,
    },
}

/// Addresses of a cloud's services, where they are not the usual ones.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CloudUrls {
    /// The API that gives the password or token.
    pub api: Option<Url>,
    /// The API that exchanges identities (STS, OAuth).
    pub identity: Option<Url>,
    /// The metadata service.
    pub metadata: Option<Url>,
}
