//! Messages of LDAP (RFC 4511): requests as bytes, and bytes as answers.
//!
//! The crate `ldap3` has the grammar of filters and writes requests. It is not trusted with answers: it reads them
//! recursively, and panics at those that it does not expect. So these are read here, by a fixed shape.

use bytes::BytesMut;
use ldap3::asn1::{
    ASNTag as _, Boolean, Enumerated, Integer, OctetString, Sequence, Tag, TagClass, write,
};

/// The largest message: an entry with the names of some ten thousand groups.
pub(super) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// The most characters of a server's explanation that are told.
const TEXT_CHARS_MAX: usize = 200;

/// The request to begin TLS (RFC 4511 section 4.14.1).
const START_TLS: &str = "1.3.6.1.4.1.1466.20037";

const BIND: u64 = 0;
const UNBIND: u64 = 2;
const SEARCH: u64 = 3;
const EXTENDED: u64 = 23;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of a bind.
    Bound(Outcome),
    /// One of a search's entries.
    Entry(Entry),
    /// The end of a search.
    Done(Outcome),
    /// Of an extended request.
    Extended(Outcome),
    /// Another place where a search could go on, or word in between.
    Aside,
}

/// The result of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The code of RFC 4511 section 4.1.9.
    pub code: u32,
    /// The server's explanation.
    pub text: String,
}

/// An entry of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its distinguished name.
    pub name: String,
    /// Its attributes with their values.
    pub attributes: Vec<(String, Vec<Vec<u8>>)>,
}

/// A message that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server answers nonsense: {0}")]
pub struct Malformed(&'static str);

/// A search.
#[derive(Debug)]
pub(super) struct Search<'a> {
    pub(super) base: &'a str,
    /// The entry at the base alone, instead of all at and below it.
    pub(super) is_entry: bool,
    pub(super) filter: Tag,
    pub(super) attributes: &'a [&'a str],
    /// The most entries.
    pub(super) entries_max: i64,
    /// The most seconds.
    pub(super) seconds_max: i64,
}

/// A simple bind (section 4.2).
pub(super) fn bind(id: u32, name: &str, password: &str) -> Vec<u8> {
    let password = Tag::OctetString(OctetString {
        class: TagClass::Context,
        id: 0,
        inner: password.as_bytes().to_vec(),
    });
    request(id, BIND, vec![integer(3), text(name), password])
}

/// The end of a connection (section 4.3).
pub(super) fn unbind(id: u32) -> Vec<u8> {
    let null = Tag::OctetString(OctetString {
        class: TagClass::Application,
        id: UNBIND,
        inner: Vec::new(),
    });
    message(id, null)
}

/// A search (section 4.5.1), by which no alias is followed.
pub(super) fn search(id: u32, search: Search<'_>) -> Vec<u8> {
    let number = |inner| {
        Tag::Enumerated(Enumerated {
            inner,
            ..Default::default()
        })
    };
    let attributes = search.attributes.iter().map(|name| text(name)).collect();
    let parts = vec![
        text(search.base),
        number(if search.is_entry { 0 } else { 2 }),
        number(0),
        integer(search.entries_max),
        integer(search.seconds_max),
        Tag::Boolean(Boolean {
            inner: false,
            ..Default::default()
        }),
        search.filter,
        Tag::Sequence(Sequence {
            inner: attributes,
            ..Default::default()
        }),
    ];
    request(id, SEARCH, parts)
}

/// The request to begin TLS.
pub(super) fn start_tls(id: u32) -> Vec<u8> {
    let name = Tag::OctetString(OctetString {
        class: TagClass::Context,
        id: 0,
        inner: START_TLS.as_bytes().to_vec(),
    });
    request(id, EXTENDED, vec![name])
}

fn request(id: u32, operation: u64, parts: Vec<Tag>) -> Vec<u8> {
    let operation = Tag::Sequence(Sequence {
        class: TagClass::Application,
        id: operation,
        inner: parts,
    });
    message(id, operation)
}

fn message(id: u32, operation: Tag) -> Vec<u8> {
    let whole = Sequence {
        inner: vec![integer(i64::from(id)), operation],
        ..Default::default()
    };
    let mut bytes = BytesMut::new();
    // Writing to memory does not fail.
    write::encode_into(&mut bytes, whole.into_structure()).ok();
    bytes.to_vec()
}

fn integer(inner: i64) -> Tag {
    Tag::Integer(Integer {
        inner,
        ..Default::default()
    })
}

fn text(text: &str) -> Tag {
    Tag::OctetString(OctetString {
        inner: text.as_bytes().to_vec(),
        ..Default::default()
    })
}

/// The length of the message that these bytes begin with; `None` while too few are there to tell.
///
/// # Errors
/// It is none, or larger than [`MESSAGE_BYTES_MAX`].
pub fn length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    match bytes.first() {
        None => return Ok(None),
        Some(0x30) => {}
        Some(_) => return Err(Malformed("no message")),
    }
    let Some((head, content)) = header(bytes)? else {
        return Ok(None);
    };
    let whole = head.saturating_add(content);
    if whole > MESSAGE_BYTES_MAX {
        return Err(Malformed("a message that is too large"));
    }
    Ok(Some(whole))
}

/// Reads a whole message: its number and the answer in it. Controls are ignored, for none is asked for.
///
/// # Errors
/// It has another shape.
pub fn parse(bytes: &[u8]) -> Result<(u32, Answer), Malformed> {
    let mut outer = Reader(bytes);
    let mut whole = Reader(outer.take(0x30)?);
    if !outer.0.is_empty() {
        return Err(Malformed("bytes behind a message"));
    }
    let id = number(whole.take(0x02)?)?;
    let (tag, content) = whole.next()?;
    let answer = match tag {
        0x61 => Answer::Bound(outcome(content)?),
        0x64 => Answer::Entry(entry(content)?),
        0x65 => Answer::Done(outcome(content)?),
        0x78 => Answer::Extended(outcome(content)?),
        0x73 | 0x79 => Answer::Aside,
        _ => return Err(Malformed("an answer of another kind")),
    };
    Ok((id, answer))
}

/// The begin of every result (section 4.1.9); what follows is not looked at.
fn outcome(content: &[u8]) -> Result<Outcome, Malformed> {
    let mut parts = Reader(content);
    let code = number(parts.take(0x0a)?)?;
    let _matched = parts.take(0x04)?;
    let text = String::from_utf8_lossy(parts.take(0x04)?);
    let text = text.chars().take(TEXT_CHARS_MAX);
    Ok(Outcome {
        code,
        text: text.filter(|it| !it.is_control()).collect(),
    })
}

fn entry(content: &[u8]) -> Result<Entry, Malformed> {
    let mut parts = Reader(content);
    let name = utf8(parts.take(0x04)?)?;
    let mut list = Reader(parts.take(0x30)?);
    let mut attributes = Vec::new();
    while !list.0.is_empty() {
        let mut attribute = Reader(list.take(0x30)?);
        let description = utf8(attribute.take(0x04)?)?;
        let mut set = Reader(attribute.take(0x31)?);
        let mut values = Vec::new();
        while !set.0.is_empty() {
            values.push(set.take(0x04)?.to_vec());
        }
        attributes.push((description, values));
    }
    Ok(Entry { name, attributes })
}

fn utf8(bytes: &[u8]) -> Result<String, Malformed> {
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a name that is no text"))?;
    Ok(text.to_owned())
}

/// A number that is not negative.
fn number(bytes: &[u8]) -> Result<u32, Malformed> {
    if bytes.is_empty() || bytes.len() > 4 || bytes.first().is_some_and(|first| *first >= 0x80) {
        return Err(Malformed("a number that is none"));
    }
    Ok(bytes
        .iter()
        .fold(0, |number, byte| (number << 8) | u32::from(*byte)))
}

/// Elements in a row, in the encoding that LDAP has of BER (section 5.1): one byte of tag, a definite length.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let cut = Malformed("an element that is cut");
        let tag = *self.0.first().ok_or(cut)?;
        let (head, length) = header(self.0)?.ok_or(cut)?;
        let content = self.0.get(head..).ok_or(cut)?;
        let (content, rest) = content.split_at_checked(length).ok_or(cut)?;
        self.0 = rest;
        Ok((tag, content))
    }

    fn take(&mut self, expected: u8) -> Result<&'a [u8], Malformed> {
        let (tag, content) = self.next()?;
        if tag != expected {
            return Err(Malformed("an element of another kind"));
        }
        Ok(content)
    }
}

/// The lengths of an element's head and of its content; `None` while too few bytes are there to tell.
fn header(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let Some(first) = bytes.get(1) else {
        return Ok(None);
    };
    if *first < 0x80 {
        return Ok(Some((2, usize::from(*first))));
    }
    // Active Directory always writes four bytes.
    let count = usize::from(*first & 0x7f);
    if !(1..=4).contains(&count) {
        return Err(Malformed("a length that is none"));
    }
    let Some(digits) = bytes.get(2..2 + count) else {
        return Ok(None);
    };
    let length = digits
        .iter()
        .fold(0, |length, byte| (length << 8) | usize::from(*byte));
    Ok(Some((2 + count, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x84][..], &length, content].concat()
    }

    fn answer(tag: u8, content: &[u8]) -> Vec<u8> {
        element(0x30, &[&[2, 1, 7][..], &element(tag, content)].concat())
    }

    #[test]
    fn answers_are_read_and_controls_left_out() {
        let success = [&[0x0a, 1, 0, 4, 0][..], &element(4, b"well")].concat();
        let bound = answer(0x61, &success);
        assert_eq!(length(&bound), Ok(Some(bound.len())));
        let outcome = Outcome {
            code: 0,
            text: "well".to_owned(),
        };
        assert_eq!(parse(&bound), Ok((7, Answer::Bound(outcome.clone()))));
        let with_control = element(
            0x30,
            &[
                &[2, 1, 7][..],
                &element(0x65, &success),
                &element(0xa0, b"?"),
            ]
            .concat(),
        );
        assert_eq!(parse(&with_control), Ok((7, Answer::Done(outcome))));
        let attribute = [
            element(4, b"cn"),
            element(0x31, &[element(4, b"a"), element(4, b"b")].concat()),
        ];
        let list = element(0x30, &element(0x30, &attribute.concat()));
        let entry = answer(0x64, &[element(4, b"cn=a"), list].concat());
        let expected = Entry {
            name: "cn=a".to_owned(),
            attributes: vec![("cn".to_owned(), vec![b"a".to_vec(), b"b".to_vec()])],
        };
        assert_eq!(parse(&entry), Ok((7, Answer::Entry(expected))));
        for cut in 0..entry.len() {
            let begun = entry.get(..cut).unwrap();
            parse(begun).expect_err("it is cut");
            assert!(matches!(length(begun), Ok(None | Some(_))));
        }
    }

    #[test]
    fn what_is_no_answer_is_refused_without_being_waited_for() {
        length(b"HTTP/1.1 400").expect_err("no message");
        length(&[0x30, 0x80]).expect_err("an indefinite length");
        length(&[0x30, 0x84, 0x7f, 0, 0, 0]).expect_err("too large");
        length(&[0x30, 0x85, 0]).expect_err("a length of five bytes");
        // Nesting is never followed further than the shape has it.
        let deep = (0..100_000).fold(Vec::new(), |inner: Vec<u8>, _| {
            if inner.len() > 200_000 {
                inner
            } else {
                [&[0x30, 0x84, 0, 0, 0, 0][..], &inner].concat()
            }
        });
        parse(&deep).expect_err("nonsense");
        parse(&answer(0x60, b"")).expect_err("a request");
        parse(&answer(0x61, &[0x0a, 1, 0xff, 4, 0, 4, 0])).expect_err("a negative code");
    }

    #[test]
    fn requests_have_their_bytes() {
        // RFC 4511 section 4.2 by hand: version 3, name, password.
        let expected = b"\x30\x13\x02\x01\x01\x60\x0e\x02\x01\x03\x04\x04cn=a\x80\x03pwd";
        assert_eq!(bind(1, "cn=a", "pwd"), expected);
        let expected = b"\x30\x1d\x02\x01\x02\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
        assert_eq!(start_tls(2), expected);
        assert_eq!(unbind(3), b"\x30\x05\x02\x01\x03\x42\x00");
        let filter = ldap3::parse_filter("(uid=a)").unwrap();
        let request = search(
            4,
            Search {
                base: "dc=x",
                is_entry: false,
                filter,
                attributes: &["cn"],
                entries_max: 2,
                seconds_max: 5,
            },
        );
        let expected: &[u8] = b"\x30\x2a\x02\x01\x04\x63\x25\x04\x04dc=x\x0a\x01\x02\x0a\x01\x00\x02\x01\x02\x02\x01\x05\x01\x01\x00\xa3\x08\x04\x03uid\x04\x01a\x30\x04\x04\x02cn";
        assert_eq!(request, expected);
    }
}
