//! AWS Signature Version 4 of a POST or GET to `/` without a query, which is all that the APIs used
//! here need.
//!
//! Source: AWS Identity and Access Management, user guide, "Create a signed AWS API request".

use super::input::Keys;
use super::{date, mac};
use crate::clock::Timestamp;

/// The scope of a signature.
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// A request to `/`.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// Headers that are signed: names in lower case, each once, `host` and `x-amz-date` among them, and
    /// `x-amz-security-token` if there is one.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

/// The value of `Authorization`.
pub(super) fn authorization(
    keys: &Keys,
    scope: &Scope<'_>,
    request: &Request<'_>,
    now: Timestamp,
) -> String {
    let mut headers = request.headers.to_vec();
    headers.sort_unstable();
    let signed: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let signed = signed.join(";");
    let lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}:{}\n", value.trim()))
        .collect();
    let lines = lines.concat();
    let hash = mac::sha256_hex(request.body);
    let canonical = format!("{}\n/\n\n{lines}\n{signed}\n{hash}", request.method);

    let time = date::basic(now);
    let day = time.split('T').next().unwrap_or_default();
    let Scope { region, service } = scope;
    let scope_text = format!("{day}/{region}/{service}/aws4_request");
    let hash = mac::sha256_hex(canonical.as_bytes());
    let to_sign = format!("{ALGORITHM}\n{time}\n{scope_text}\n{hash}");
    let key = signing_key(keys.secret.expose(), day, scope);
    let signature = mac::hex(mac::hmac_sha256(key.as_ref(), &to_sign).as_ref());
    format!(
        "{ALGORITHM} Credential={}/{scope_text}, SignedHeaders={signed}, Signature={signature}",
        keys.id.expose()
    )
}

/// The key of a day, region and service. `day` is `20150830`.
fn signing_key(secret: &str, day: &str, scope: &Scope<'_>) -> aws_lc_rs::hmac::Tag {
    let key = mac::hmac_sha256(format!("AWS4{secret}").as_bytes(), day);
    let key = mac::hmac_sha256(key.as_ref(), scope.region);
    let key = mac::hmac_sha256(key.as_ref(), scope.service);
    mac::hmac_sha256(key.as_ref(), "aws4_request")
}

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::login::cloud::tests::keys;

    /// The keys, time, region and service of the AWS Signature Version 4 test suite.
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const NOW: Timestamp = Timestamp(1_440_938_160_000);
    const SUITE: Scope<'static> = Scope {
        region: "us-east-1",
        service: "service",
    };
    const HOST: (&str, &str) = ("host", "example.amazonaws.com");
    const DATE: (&str, &str) = ("x-amz-date", "20150830T123600Z");

    fn sign(method: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
        let request = Request {
            method,
            headers,
            body,
        };
        authorization(&keys("AKIDEXAMPLE", SECRET, None), &SUITE, &request, NOW)
    }

    fn expected(signed: &str, signature: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders={signed}, Signature={signature}"
        )
    }

    #[test]
    fn the_test_suites_get_vanilla() {
        assert_eq!(
            sign("GET", &[HOST, DATE], b""),
            expected(
                "host;x-amz-date",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
            )
        );
    }

    #[test]
    fn the_test_suites_post_vanilla() {
        assert_eq!(
            sign("POST", &[HOST, DATE], b""),
            expected(
                "host;x-amz-date",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
            )
        );
    }

    #[test]
    fn the_test_suites_post_x_www_form_urlencoded() {
        // Issued in another order than they are signed in.
        let form = ("content-type", "application/x-www-form-urlencoded");
        assert_eq!(
            sign("POST", &[DATE, HOST, form], b"Param1=value1"),
            expected(
                "content-type;host;x-amz-date",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
            )
        );
    }

    #[test]
    fn the_test_suites_post_sts_header_before() {
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBu\
                     FqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmU\
                     pp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY\
                     9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvK\
                     Tr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        assert_eq!(
            sign("POST", &[HOST, DATE, ("x-amz-security-token", token)], b""),
            expected(
                "host;x-amz-date;x-amz-security-token",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"
            )
        );
    }

    /// "Examples of how to derive a signing key", AWS General Reference.
    #[test]
    fn the_documented_signing_key() {
        let scope = Scope {
            region: "us-east-1",
            service: "iam",
        };
        assert_eq!(
            mac::hex(signing_key(SECRET, "20150830", &scope).as_ref()),
            "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
        );
    }
}
