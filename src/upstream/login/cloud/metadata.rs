//! Temporary keys of a machine's role, from its cloud's metadata service. AWS's, Alibaba's and
//! Tencent's are alike.

use http::Method;
use url::Url;

use super::call::{Call, Caller, service_url};
use super::input::Keys;
use crate::upstream::{FetchError, Secret};

/// A metadata service.
pub(super) struct Metadata<'a> {
    /// As users know it.
    pub(super) service: &'static str,
    pub(super) url: Option<&'a Url>,
    pub(super) usual_url: &'static str,
    /// The path of roles and their keys, with a `/` at its end.
    pub(super) roles: &'static str,
    /// The names of the id, the secret and the token in the keys' JSON.
    pub(super) fields: [&'static str; 3],
    pub(super) session: Session,
}

/// Says if requests come with a token that was asked for before, as a guard against requests that
/// something else was talked into.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    /// No such token exists.
    None,
    /// Asked for with the first header, sent in the second.
    Required(&'static str, &'static str),
    /// As before; but where the service gives none, requests come without.
    Preferred(&'static str, &'static str),
}

impl Metadata<'_> {
    /// The keys of `role`, or else of the role that the service names.
    ///
    /// # Errors
    /// [`FetchError::Login`], [`FetchError::Timeout`].
    pub(super) async fn keys(
        &self,
        role: Option<&str>,
        caller: Caller<'_>,
    ) -> Result<Keys, FetchError> {
        let session = self.session(caller).await?;
        let role = if let Some(role) = role {
            role.to_owned()
        } else {
            let answer = self.ask(self.roles, session.as_ref(), caller).await?;
            answer.word()?.to_owned()
        };
        // `Url::set_path` encodes what may not be in a path, but would follow dots and slashes.
        if role.starts_with('.') || role.contains('/') {
            let why = format!("{}: the role's name is not one", self.service);
            return Err(FetchError::Login(why));
        }
        let path = format!("{}{role}", self.roles);
        let keys = self.ask(&path, session.as_ref(), caller).await?.json()?;
        if keys.at("/Code").is_some_and(|code| code != "Success") {
            return Err(keys.failed());
        }
        let [id, secret, token] = self.fields.map(|field| format!("/{field}"));
        let take = |field: &str| keys.text(field).map(|text| Secret::new(text.to_owned()));
        Ok(Keys {
            id: take(&id)?,
            secret: take(&secret)?,
            token: Some(take(&token)?),
        })
    }

    /// The header to send, if any.
    async fn session(
        &self,
        caller: Caller<'_>,
    ) -> Result<Option<(&'static str, Secret)>, FetchError> {
        let (Session::Required(life, name) | Session::Preferred(life, name)) = self.session else {
            return Ok(None);
        };
        let url = service_url(self.url, self.usual_url, "/latest/api/token")?;
        let call = Call::new(self.service, Method::PUT, url).with(life, SESSION_SECONDS);
        let asked = caller.send_quickly(call).await;
        let token = asked.and_then(|answer| Ok(Secret::new(answer.word()?.to_owned())));
        match (token, self.session) {
            (Ok(token), _) => Ok(Some((name, token))),
            (Err(FetchError::Login(_)), Session::Preferred(..)) => Ok(None),
            (Err(error), _) => Err(error),
        }
    }

    async fn ask(
        &self,
        path: &str,
        session: Option<&(&'static str, Secret)>,
        caller: Caller<'_>,
    ) -> Result<super::call::Answer, FetchError> {
        let url = service_url(self.url, self.usual_url, path)?;
        let mut call = Call::new(self.service, Method::GET, url);
        if let Some((name, token)) = session {
            call = call.with(name, token.expose());
        }
        caller.send_quickly(call).await
    }
}

/// Life of the session's token: it is used twice, at once.
const SESSION_SECONDS: &str = "60";
