//! Keys for object stores, by the ways that the clouds' registries have.
//!
//! Sources: those of `ecr`, `alibaba`, `gar` and `azure`; Microsoft, "Authorize access to blobs using Microsoft Entra ID".

use super::call::Caller;
use super::input::{self, Keys};
use super::{alibaba, azure, ecr, gar};
use crate::clock::SystemClock;
use crate::net::{Deadline, HttpClient};
use crate::upstream::login::StorageLogin;
use crate::upstream::login::storage::StorageKeys;
use crate::upstream::{FetchError, Secret};

/// The audience of Azure's object store, in all of its clouds.
const AZURE_AUDIENCE: &str = "https://storage.azure.com/";
/// The host at which service principals log in.
const AZURE_AUTHORITY: &str = "https://login.microsoftonline.com";

/// Keys, asked for now.
///
/// # Errors
/// [`FetchError::Login`], naming the service and what it said, without secrets; [`FetchError::Timeout`].
pub(in crate::upstream::login) async fn keys(
    login: &StorageLogin,
    api: &HttpClient,
    deadline: Deadline,
) -> Result<StorageKeys, FetchError> {
    let clock = SystemClock;
    let caller = Caller {
        api,
        deadline,
        clock: &clock,
    };
    ask(login, caller).await
}

async fn ask(login: &StorageLogin, caller: Caller<'_>) -> Result<StorageKeys, FetchError> {
    match login {
        StorageLogin::Pair {
            id,
            secret,
            session_token,
        } => {
            let pair = (id.clone(), secret.clone());
            Keys::configured(&pair, session_token.as_ref(), caller)
                .await
                .map(signing)
        }
        StorageLogin::Account { key } => input::text(key, caller).await.map(StorageKeys::Account),
        StorageLogin::Aws {
            region,
            web_identity,
            urls,
        } => {
            let aws = ecr::Ecr {
                region: &None,
                keys: &None,
                session_token: &None,
                web_identity,
                urls,
            };
            aws.keys_in(region, caller).await.map(signing)
        }
        StorageLogin::Alibaba { role, urls } => {
            let alibaba = alibaba::Alibaba {
                region: &None,
                instance_id: &None,
                keys: &None,
                session_token: &None,
                role,
                urls,
            };
            alibaba.keys(caller).await.map(signing)
        }
        StorageLogin::Google { key_file, urls } => {
            let google = gar::Gar { key_file, urls };
            let (token, _) = google.token(caller).await?;
            Ok(StorageKeys::Bearer(token))
        }
        StorageLogin::Azure {
            tenant,
            client_id,
            client_secret,
            urls,
        } => {
            let azure = azure::Azure {
                tenant,
                client_id,
                client_secret,
                urls,
            };
            let answer = azure.token(AZURE_AUTHORITY, AZURE_AUDIENCE, caller).await?;
            let token = answer.text("/access_token")?;
            Ok(StorageKeys::Bearer(Secret::new(token.to_owned())))
        }
    }
}

fn signing(keys: Keys) -> StorageKeys {
    let Keys { id, secret, token } = keys;
    StorageKeys::Signing { id, secret, token }
}
