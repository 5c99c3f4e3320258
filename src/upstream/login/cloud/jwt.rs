//! JSON Web Tokens (RFC 7519), signed by RS256 (RFC 7518 section 3.3).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::upstream::Secret;

/// A signed token. `key` is a PKCS #8 key in PEM, `key_id` its name for whoever checks the signature.
///
/// # Errors
/// Says what is wrong with the key.
pub(super) fn signed(
    key: &Secret,
    key_id: Option<&str>,
    claims: &Value,
) -> Result<Secret, &'static str> {
    let mut header = json!({"alg": "RS256", "typ": "JWT"});
    if let (Some(key_id), Some(header)) = (key_id, header.as_object_mut()) {
        header.insert("kid".to_owned(), Value::from(key_id));
    }
    let part = |value: &Value| BASE64URL.encode(value.to_string());
    let input = format!("{}.{}", part(&header), part(claims));
    let signature = rs256(key, &input)?;
    Ok(Secret::new(format!("{input}.{signature}")))
}

fn rs256(key: &Secret, input: &str) -> Result<String, &'static str> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(key.expose().as_bytes())
        .map_err(|_| "the private key is not PKCS #8 in PEM")?;
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der())
        .map_err(|_| "the private key is not RSA of 2048 to 8192 bits")?;
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        input.as_bytes(),
        &mut signature,
    )
    .map_err(|_| "the private key does not sign")?;
    Ok(BASE64URL.encode(signature))
}

/// The claim `exp` of a token, in seconds since the Unix epoch. The signature is not checked: this is
/// to know when to ask for the next one, and who gave it is known from the connection.
pub(super) fn expiry(token: &str) -> Option<u64> {
    let claims = token.split('.').nth(1)?;
    let claims = BASE64URL.decode(claims.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims.get("exp")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::login::cloud::tests::RSA_KEY;

    fn key() -> Secret {
        Secret::new(RSA_KEY.to_owned())
    }

    /// RFC 7515, appendix A.2.
    #[test]
    fn the_rfcs_example() {
        let input = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6\
                     Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4B\
                         h-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZ\
                         LgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_d\
                         O--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6\
                         LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        assert_eq!(rs256(&key(), input).as_deref(), Ok(signature));
    }

    #[test]
    fn a_token_names_its_key_and_its_end() {
        let token = signed(&key(), Some("k1"), &json!({"exp": 42})).unwrap();
        let header = token.expose().split('.').next().unwrap();
        let header: Value = serde_json::from_slice(&BASE64URL.decode(header).unwrap()).unwrap();
        assert_eq!(header, json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
        assert_eq!(expiry(token.expose()), Some(42));
    }

    #[test]
    fn what_is_no_key_or_token_is_no_panic() {
        for text in [
            "",
            "x",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            assert!(signed(&Secret::new(text.to_owned()), None, &json!({})).is_err());
        }
        for token in ["", "a.b.c", "a..c", "..", "a.e30.c", "a.eyJleHAiOiJ4In0.c"] {
            assert_eq!(expiry(token), None, "{token}");
        }
    }
}
