//! `multipart/byteranges`, read as strictly as the strictest client.

use std::ops::Range;

use super::{Answer, Ending};

/// The ranges of the parts of an answer, whose bytes must be those of `content`, and its framing to the byte.
pub fn of(answer: &Answer, content: &[u8]) -> Vec<Range<usize>> {
    assert_eq!(answer.status, 206, "{}", answer.text());
    assert_eq!(answer.ending, Ending::Clean);
    assert_eq!(
        answer.header("content-range"),
        "",
        "RFC 9110 section 15.3.7.2"
    );
    let length = answer.body.len().to_string();
    assert_eq!(answer.header("content-length"), length);
    let media_type = answer.header("content-type");
    let boundary = media_type
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap_or_else(|| panic!("no multipart: {media_type}"));
    let mut rest = &answer.body[..];
    let mut found = Vec::new();
    let mut before = "";
    loop {
        let end = format!("{before}--{boundary}--\r\n");
        if rest == end.as_bytes() {
            return found;
        }
        let head = format!("{before}--{boundary}\r\n");
        rest = rest
            .strip_prefix(head.as_bytes())
            .unwrap_or_else(|| panic!("no boundary after {found:?}"));
        let end = rest
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let head = std::str::from_utf8(&rest[..end]).unwrap();
        rest = &rest[end + 4..];
        let (mut range, mut typed) = (None, false);
        for line in head.split("\r\n") {
            match line.split_once(": ").unwrap() {
                ("Content-Range", value) => range = Some(parsed(value, content.len())),
                ("Content-Type", value) => typed = value == "application/octet-stream",
                (name, _) => panic!("{name}"),
            }
        }
        let range = range.unwrap();
        assert!(typed, "a part without a type");
        assert!(
            rest[..range.len()] == content[range.clone()],
            "{range:?}: other bytes"
        );
        rest = &rest[range.len()..];
        found.push(range);
        before = "\r\n";
    }
}

fn parsed(value: &str, total: usize) -> Range<usize> {
    let range = value.strip_prefix("bytes ").unwrap();
    let (range, of) = range.split_once('/').unwrap();
    assert_eq!(of, total.to_string());
    let (first, last) = range.split_once('-').unwrap();
    first.parse().unwrap()..last.parse::<usize>().unwrap() + 1
}
