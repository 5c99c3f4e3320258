//! Alibaba Cloud's signatures, both HMAC-SHA1: RPC (in the query) and ROA (in the headers).
//!
//! Source: Alibaba Cloud SDK documentation, "Request syntax and signature method V2 for RPC APIs" and
//! "… for ROA APIs".

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::input::Keys;
use super::mac;

/// The query of an RPC request, signed: `parameters` and their `Signature`.
pub(super) fn rpc_query(method: &str, parameters: &BTreeMap<&str, &str>, secret: &str) -> String {
    let query = canonical_query(parameters);
    let signature = rpc_signature(method, &query, secret);
    format!("{query}&Signature={}", encode(&signature))
}

fn rpc_signature(method: &str, canonical_query: &str, secret: &str) -> String {
    let to_sign = format!("{method}&%2F&{}", encode(canonical_query));
    // The documentation's own `&`: what follows it would be the secret of a token, which is not used.
    mac::hmac_sha1_base64(format!("{secret}&").as_bytes(), &to_sign)
}

/// Sorted by name, encoded.
fn canonical_query(parameters: &BTreeMap<&str, &str>) -> String {
    let pairs: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    pairs.join("&")
}

/// RFC 3986: all but unreserved characters.
fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// All but the unreserved characters of RFC 3986 section 2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A ROA request. All of the four standard headers are sent: what an absent one stands for in the
/// signature, an empty line or none, is told differently in the documentation and in the vendor's code.
pub(super) struct Roa<'a> {
    pub(super) method: &'a str,
    pub(super) accept: &'a str,
    /// Base64 of the body's MD5.
    pub(super) content_md5: &'a str,
    pub(super) content_type: &'a str,
    pub(super) date: &'a str,
    /// Those whose names begin with `x-acs-`, in lower case.
    pub(super) acs: &'a BTreeMap<&'static str, String>,
    /// The path.
    pub(super) resource: &'a str,
}

/// The value of `Authorization`.
pub(super) fn roa_authorization(keys: &Keys, roa: &Roa<'_>) -> String {
    let acs: Vec<String> = roa
        .acs
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    let acs = acs.concat();
    let to_sign = format!(
        "{}\n{}\n{}\n{}\n{}\n{acs}{}",
        roa.method, roa.accept, roa.content_md5, roa.content_type, roa.date, roa.resource
    );
    let signature = mac::hmac_sha1_base64(keys.secret.expose().as_bytes(), &to_sign);
    format!("acs {}:{signature}", keys.id.expose())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::login::cloud::tests::keys;

    fn example() -> BTreeMap<&'static str, &'static str> {
        BTreeMap::from([
            ("Timestamp", "2016-02-23T12:46:24Z"),
            ("Format", "XML"),
            ("AccessKeyId", "testid"),
            ("Action", "DescribeRegions"),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureNonce", "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf"),
            ("Version", "2014-05-26"),
            ("SignatureVersion", "1.0"),
        ])
    }

    /// The documentation's own example: ECS, `DescribeRegions`.
    #[test]
    fn the_documented_rpc_example() {
        let query = canonical_query(&example());
        assert_eq!(
            rpc_signature("GET", &query, "testsecret"),
            "OLeaidS1JvxuMvnyHOwuJ+uX5qY="
        );
        let signed = rpc_query("GET", &example(), "testsecret");
        assert!(signed.ends_with("&Signature=OLeaidS1JvxuMvnyHOwuJ%2BuX5qY%3D"));
        assert!(signed.contains("&Timestamp=2016-02-23T12%3A46%3A24Z&"));
    }

    #[test]
    fn only_unreserved_characters_stay() {
        assert_eq!(encode("aZ9-_.~"), "aZ9-_.~");
        assert_eq!(encode(" *+/=&é"), "%20%2A%2B%2F%3D%26%C3%A9");
    }

    /// The examples that Alibaba's SDK for Go is tested with (`sdk/auth/roa_signature_composer_test.go`).
    #[test]
    fn the_vendors_roa_examples() {
        let acs = BTreeMap::from([
            ("x-acs-signature-method", "HMAC-SHA1".to_owned()),
            ("x-acs-signature-version", "1.0".to_owned()),
            ("x-acs-version", String::new()),
        ]);
        let keys = keys("accessKeyId", "accessKeySecret", None);
        let roa = Roa {
            method: "GET",
            accept: "application/json",
            content_md5: "1B2M2Y8AsgTpgAmY7PhCfg==",
            content_type: "application/octet-stream",
            date: "mock date",
            acs: &acs,
            resource: "/users/:user",
        };
        assert_eq!(
            roa_authorization(&keys, &roa),
            "acs accessKeyId:degLHXLEN6rMojj+bOlK74U9iic="
        );
        let form = Roa {
            accept: "application/xml",
            content_md5: "7xdqbEJPlU+kLUzeA5SYlw==",
            content_type: "application/x-www-form-urlencoded",
            ..roa
        };
        assert_eq!(
            roa_authorization(&keys, &form),
            "acs accessKeyId:U9uA3ftRZKixHPB08Z7Z4GOlpTY="
        );
    }
}
