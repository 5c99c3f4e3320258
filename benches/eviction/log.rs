//! Requests out of roadstead's access log, text or JSON.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use roadstead::clock::Timestamp;

use crate::replay::Request;

/// Ranges of one blob that one client asks for within this time are one request: containerd and
/// lazy snapshotters read a blob in many.
const ONE_USE_MS: u64 = 60 * 1000;

/// What was in a log.
#[derive(Debug)]
pub(crate) struct Log {
    /// In order of time.
    pub(crate) requests: Vec<Request>,
    /// Lines that are no access line, or none of a GET that sent bytes of a digest.
    other_lines: usize,
    /// Parts of a blob that were taken as one request with an earlier part.
    joined: usize,
    /// Blobs of which no line has the whole: the most that was sent at once counts as their size.
    partial: usize,
}

struct Line {
    at: Timestamp,
    client: String,
    digest: String,
    whole: bool,
    bytes: u64,
}

/// Reads a log.
pub(crate) fn read(text: &str) -> Log {
    let mut lines: Vec<Line> = text.lines().filter_map(line).collect();
    let other_lines = text.lines().count() - lines.len();
    // A line is written at its request's end.
    lines.sort_by_key(|line| line.at);
    let mut blobs: HashMap<String, (u32, u64, bool)> = HashMap::new();
    for line in &lines {
        let number = u32::try_from(blobs.len()).expect("fewer blobs than memory");
        let blob = blobs
            .entry(line.digest.clone())
            .or_insert((number, 0, false));
        blob.1 = blob.1.max(line.bytes);
        blob.2 |= line.whole;
    }
    let mut last: HashMap<(String, u32), u64> = HashMap::new();
    let (mut requests, mut joined) = (Vec::new(), 0);
    for line in lines {
        let (blob, size, _) = blobs[&line.digest];
        if !line.whole {
            let before = last.insert((line.client, blob), line.at.0);
            if before.is_some_and(|before| line.at.0 - before < ONE_USE_MS) {
                joined += 1;
                continue;
            }
        }
        requests.push(Request {
            at: line.at,
            blob,
            size,
        });
    }
    Log {
        requests,
        other_lines,
        joined,
        partial: blobs.values().filter(|(_, _, whole)| !whole).count(),
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests; {} lines are not of a GET that sent bytes of a digest, {} are further ranges of the same use; of {} blobs only parts were sent",
            self.requests.len(),
            self.other_lines,
            self.joined,
            self.partial
        )
    }
}

/// One access line of a GET that sent bytes.
fn line(text: &str) -> Option<Line> {
    let json: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let field = |name: &str| -> Option<String> {
        let Some(json) = &json else {
            let mut words = text.split_whitespace();
            let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
            return Some(value.trim_matches('"').to_owned());
        };
        let value = json.get(name)?;
        Some(
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned),
        )
    };
    if !text.contains("roadstead::access") || field("method")? != "GET" {
        return None;
    }
    let stamp = match &json {
        Some(_) => field("timestamp")?,
        None => text.split_whitespace().next()?.to_owned(),
    };
    let since: Duration = humantime::parse_rfc3339_weak(&stamp)
        .ok()?
        .duration_since(UNIX_EPOCH)
        .ok()?;
    let client = field("client")?;
    let (host, _port) = client.rsplit_once(':')?;
    let status = field("status")?;
    let bytes = field("bytes")?.parse().ok()?;
    if bytes == 0 || !matches!(status.as_str(), "200" | "206") {
        return None;
    }
    Some(Line {
        at: Timestamp(u64::try_from(since.as_millis()).ok()?),
        client: host.to_owned(),
        digest: field("digest")?,
        whole: status == "200" && field("ended")? == "complete",
        bytes,
    })
}

/// Both forms of a line are the same request, and ranges are joined.
pub(crate) fn what_must_hold() {
    let json = |second: u8, port: u16, status: u16, bytes: u64| {
        format!(
            r#"{{"timestamp":"2026-11-21T09:17:{second:02}.155826Z","level":"INFO","message":"request","request_id":"1-1","client":"127.0.0.1:{port}","method":"GET","path":"/v2/a/blobs/sha256:8f","digest":"sha256:8f","status":{status},"outcome":"miss","bytes":{bytes},"ended":"complete","target":"roadstead::access"}}"#
        )
    };
    let text = "2026-11-21T09:16:24.315086Z  INFO roadstead::access: request request_id=1-3 client=127.0.0.1:41452 method=GET path=\"/v2/a/blobs/sha256:8f\" digest=sha256:8f status=200 outcome=\"miss\" bytes=3000 ttfb_ms=12.17 ended=\"complete\" user_agent=\"curl/7.88.1 bytes=7\"\n";
    let head = text.replace("GET", "HEAD");
    let all = [
        text,
        &head,
        &json(1, 9, 206, 1000),
        "\n",
        &json(2, 8, 206, 2000),
        "\n",
        &json(3, 8, 404, 20),
    ];
    let log = read(&all.concat());
    assert_eq!((log.other_lines, log.joined, log.partial), (2, 1, 0));
    let sizes: Vec<_> = log.requests.iter().map(|r| (r.blob, r.size)).collect();
    assert_eq!(sizes, [(0, 3000), (0, 3000)]);
    assert_eq!(log.requests[1].at.0 - log.requests[0].at.0, 36_840);
}
