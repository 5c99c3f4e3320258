//! Tokens that clients get at `/token`: JSON Web Tokens (RFC 7519), signed with Ed25519 (RFC 8037). One says who its
//! bearer is and which scopes it was given for; whether he may still do that is looked at for each request.

use super::keys::Keys;
use super::scope::Scope;
use super::{Kind, Principal};
use crate::clock::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The life of a token for pulls.
pub(super) const ACCESS_TTL: Duration = Duration::from_mins(10);

/// The life of a refresh token, which clients keep in the place of a password.
const REFRESH_TTL: Duration = Duration::from_hours(365 * 24);

/// Tolerance for a clock that is set back.
const LEEWAY: Duration = Duration::from_mins(1);

/// Issuer and audience.
const ISSUER: &str = "roadstead";

/// A token is for pulls, or to get such tokens with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Use {
    /// For requests.
    Access,
    /// For `/token` alone.
    Refresh,
}

/// Claims of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    iss: String,
    aud: String,
    pub(super) sub: String,
    exp: u64,
    nbf: u64,
    iat: u64,
    #[serde(rename = "use")]
    pub(super) used_for: Use,
    pub(super) kind: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(rename = "claims", default, skip_serializing_if = "BTreeMap::is_empty")]
    others: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    policies: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    narrowed: Vec<Vec<String>>,
    /// Stands for the credentials that it was given for: with other credentials it holds no more.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) credential: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) access: Vec<Scope>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

impl Claims {
    /// Claims about somebody. `end`: when the credentials end that it is given for.
    pub(super) fn of(
        who: &Principal,
        used_for: Use,
        credential: String,
        access: Vec<Scope>,
        (now, end): (Timestamp, Option<Timestamp>),
    ) -> Self {
        let ttl = match used_for {
            Use::Access => ACCESS_TTL,
            Use::Refresh => REFRESH_TTL,
        };
        let seconds = now.0 / 1000;
        let end = end.map_or(u64::MAX, |end| end.0 / 1000);
        Self {
            iss: ISSUER.to_owned(),
            aud: ISSUER.to_owned(),
            sub: who.name.to_string(),
            exp: seconds.saturating_add(ttl.as_secs()).min(end),
            nbf: seconds.saturating_sub(LEEWAY.as_secs()),
            iat: seconds,
            used_for,
            kind: who.kind.name().to_owned(),
            groups: who.groups.clone(),
            others: who.claims.clone(),
            policies: who.policies.clone(),
            narrowed: who.narrowed.clone(),
            credential,
            access,
        }
    }

    /// The signed token.
    pub(super) fn sign(&self, keys: &Keys) -> String {
        let header = Header {
            alg: "EdDSA".to_owned(),
            typ: "JWT".to_owned(),
            kid: keys.id().to_owned(),
        };
        let encode = |json: serde_json::Result<Vec<u8>>| {
            // Texts and numbers can always be written as JSON.
            URL_SAFE_NO_PAD.encode(json.unwrap_or_default())
        };
        let head = encode(serde_json::to_vec(&header));
        let body = encode(serde_json::to_vec(self));
        let message = format!("{head}.{body}");
        let signed = URL_SAFE_NO_PAD.encode(keys.sign(message.as_bytes()));
        format!("{message}.{signed}")
    }

    /// Claims of a token, if it is one of ours for this and holds now.
    pub(super) fn verify(token: &str, used_for: Use, keys: &Keys, now: Timestamp) -> Option<Self> {
        let (message, signed) = token.rsplit_once('.')?;
        let (head, body) = message.split_once('.')?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).ok()?).ok()?;
        let signed = URL_SAFE_NO_PAD.decode(signed).ok()?;
        if header.alg != "EdDSA" || !keys.has_signed(&header.kid, message.as_bytes(), &signed) {
            return None;
        }
        let claims: Self = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()?;
        let seconds = now.0 / 1000;
        let holds = claims.iss == ISSUER
            && claims.aud == ISSUER
            && claims.used_for == used_for
            && (claims.nbf..claims.exp).contains(&seconds);
        holds.then_some(claims)
    }

    /// True if a token says that it is one of ours.
    pub(super) fn are_of(token: &str) -> bool {
        let body = token.split('.').nth(1);
        let body = body.and_then(|body| URL_SAFE_NO_PAD.decode(body).ok());
        let claims = body.and_then(|body| serde_json::from_slice::<Self>(&body).ok());
        claims.is_some_and(|claims| claims.iss == ISSUER)
    }

    /// When it holds no more.
    pub(super) fn expires(&self) -> Timestamp {
        Timestamp(self.exp.saturating_mul(1000))
    }

    /// The owner.
    pub(super) fn principal(&self) -> Option<Principal> {
        let kinds = [
            Kind::Anonymous,
            Kind::User,
            Kind::Robot,
            Kind::Certificate,
            Kind::Workload,
        ];
        let kind = kinds.into_iter().find(|kind| kind.name() == self.kind)?;
        Some(Principal {
            groups: self.groups.clone(),
            claims: self.others.clone(),
            policies: self.policies.clone(),
            narrowed: self.narrowed.clone(),
            ..Principal::of(kind, &self.sub)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(keys: &Keys, used_for: Use) -> String {
        let who = Principal {
            groups: vec!["ops".to_owned()],
            narrowed: vec![vec!["read-only".to_owned()]],
            ..Principal::user("alice")
        };
        let scopes = Scope::parse_all(["repository:a:pull"].into_iter());
        let claims = Claims::of(
            &who,
            used_for,
            "x".to_owned(),
            scopes,
            (Timestamp(1_000_000_000), None),
        );
        claims.sign(keys)
    }

    #[test]
    fn a_token_says_who_for_ten_minutes() {
        let keys = Keys::ephemeral().unwrap();
        let token = token(&keys, Use::Access);
        let at = |seconds: u64| {
            Claims::verify(
                &token,
                Use::Access,
                &keys,
                Timestamp(1_000_000_000 + seconds * 1000),
            )
        };
        let claims = at(599).expect("it holds");
        let who = claims.principal().expect("somebody");
        assert_eq!((&*who.name, who.kind), ("alice", Kind::User));
        assert_eq!(
            (who.groups, who.narrowed),
            (vec!["ops".to_owned()], vec![vec!["read-only".to_owned()]])
        );
        assert_eq!(claims.access.len(), 1);
        assert!(at(600).is_none());
        assert!(Claims::verify(&token, Use::Refresh, &keys, Timestamp(1_000_000_000)).is_none());
    }

    #[test]
    fn what_was_tampered_with_is_none_of_ours() {
        let keys = Keys::ephemeral().unwrap();
        let token = token(&keys, Use::Access);
        let now = Timestamp(1_000_000_000);
        let verify = |token: &str| Claims::verify(token, Use::Access, &keys, now);
        assert!(verify(&token).is_some());
        let parts: Vec<&str> = token.split('.').collect();
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let body = URL_SAFE_NO_PAD.decode(parts[1]).unwrap();
        let body = String::from_utf8(body).unwrap().replace("alice", "admin");
        let none = encode(r#"{"alg":"none","typ":"JWT","kid":""}"#);
        let forged = [
            format!("{}.{}.{}", parts[0], encode(&body), parts[2]),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{}.{}", parts[0], parts[1]),
            format!("{}.{}.", parts[0], parts[1]),
            String::new(),
            "...".to_owned(),
        ];
        for forged in forged {
            assert!(verify(&forged).is_none(), "{forged}");
        }
        let others = Keys::ephemeral().unwrap();
        assert!(Claims::verify(&token, Use::Access, &others, now).is_none());
    }
}
