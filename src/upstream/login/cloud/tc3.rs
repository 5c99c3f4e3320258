//! Tencent Cloud's signature TC3-HMAC-SHA256 of a POST to `/`.
//!
//! Source: Tencent Cloud API 3.0, "Signature method v3".

use super::input::Keys;
use super::{date, mac};
use crate::clock::Timestamp;

/// A POST to `/` of a service.
pub(super) struct Request<'a> {
    /// As in the host name: `tcr`.
    pub(super) service: &'a str,
    pub(super) host: &'a str,
    pub(super) content_type: &'a str,
    pub(super) body: &'a [u8],
}

/// The value of `Authorization`. The seconds of `now` are what `X-TC-Timestamp` must say.
pub(super) fn authorization(keys: &Keys, request: &Request<'_>, now: Timestamp) -> String {
    let Request {
        service,
        host,
        content_type,
        body,
    } = request;
    let hash = mac::sha256_hex(body);
    let canonical =
        format!("POST\n/\n\ncontent-type:{content_type}\nhost:{host}\n\n{SIGNED_HEADERS}\n{hash}");

    let day = date::day(now);
    let scope = format!("{day}/{service}/tc3_request");
    let hash = mac::sha256_hex(canonical.as_bytes());
    let seconds = now.0 / 1000;
    let to_sign = format!("{ALGORITHM}\n{seconds}\n{scope}\n{hash}");
    let key = mac::hmac_sha256(format!("TC3{}", keys.secret.expose()).as_bytes(), &day);
    let key = mac::hmac_sha256(key.as_ref(), service);
    let key = mac::hmac_sha256(key.as_ref(), "tc3_request");
    let signature = mac::hex(mac::hmac_sha256(key.as_ref(), &to_sign).as_ref());
    format!(
        "{ALGORITHM} Credential={}/{scope}, SignedHeaders={SIGNED_HEADERS}, Signature={signature}",
        keys.id.expose()
    )
}

const ALGORITHM: &str = "TC3-HMAC-SHA256";
const SIGNED_HEADERS: &str = "content-type;host";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::login::cloud::tests::keys;

    /// The documentation's own example: CVM, `DescribeInstances`.
    #[test]
    fn the_documented_example() {
        let keys = keys(
            "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE",
            "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE",
            None,
        );
        let request = Request {
            service: "cvm",
            host: "cvm.tencentcloudapi.com",
            content_type: "application/json; charset=utf-8",
            body: br#"{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}"#,
        };
        assert_eq!(
            authorization(&keys, &request, Timestamp(1_551_113_065_000)),
            "TC3-HMAC-SHA256 Credential=AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE/2019-02-25/cvm/tc3_request, \
             SignedHeaders=content-type;host, \
             Signature=72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168"
        );
    }
}
