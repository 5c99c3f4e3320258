//! A directory of a few users, which records what it is asked and fails as it is told to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a client has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Connection,
    /// Name and password.
    Bind(String, String),
    /// Base, filter, attributes.
    Search(String, String, Vec<String>),
    StartTls,
}

/// How it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mood {
    #[default]
    Well,
    /// Takes requests and says nothing.
    Silent,
    /// Hangs up before it answers.
    HangsUp,
    /// Hangs up in the middle of an entry.
    Cuts,
    /// Speaks another protocol.
    Http,
    /// Says that it is busy.
    Busy,
    /// Sends somebody elsewhere.
    Refers,
    /// Sends a part of the values.
    InPart,
    /// Announces a message that nobody can hold.
    Endless,
    /// Answers another request.
    Astray,
}

/// A user.
#[derive(Clone, Debug, Default)]
pub(super) struct Person {
    pub(super) uid: Vec<String>,
    pub(super) password: String,
    /// Names of groups.
    pub(super) groups: Vec<String>,
}

/// The directory.
pub(super) struct Directory {
    pub(super) address: SocketAddr,
    /// By distinguished name.
    pub(super) people: Arc<Mutex<HashMap<String, Person>>>,
    pub(super) mood: Arc<Mutex<Mood>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

#[derive(Clone)]
struct Shared {
    people: Arc<Mutex<HashMap<String, Person>>>,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    tls: Option<TlsAcceptor>,
}

impl Directory {
    /// Starts one. `tls`: for `ldaps` (true) or `StartTLS` (false).
    pub(super) async fn start(tls: Option<(TlsAcceptor, bool)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let at_once = tls.as_ref().is_some_and(|(_, at_once)| *at_once);
        let shared = Shared {
            people: Arc::default(),
            mood: Arc::default(),
            asked: Arc::default(),
            tls: tls.map(|(acceptor, _)| acceptor),
        };
        let directory = Self {
            address,
            people: Arc::clone(&shared.people),
            mood: Arc::clone(&shared.mood),
            asked: Arc::clone(&shared.asked),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                shared.asked.lock().unwrap().push(Asked::Connection);
                tokio::spawn(async move {
                    match &shared.tls {
                        Some(tls) if at_once => {
                            if let Ok(stream) = tls.accept(stream).await {
                                talk(Box::new(stream), &shared).await;
                            }
                        }
                        _ => talk(Box::new(stream), &shared).await,
                    }
                });
            }
        });
        directory.add("cn=reader,dc=corp", &[], "reader-secret", &[]);
        directory
    }

    pub(super) fn add(&self, dn: &str, uid: &[&str], password: &str, groups: &[&str]) {
        let texts = |all: &[&str]| all.iter().map(|&it| it.to_owned()).collect();
        let person = Person {
            uid: texts(uid),
            password: password.to_owned(),
            groups: texts(groups),
        };
        self.people.lock().unwrap().insert(dn.to_owned(), person);
    }

    /// A user below `ou=people`, whose password is the name with a `!`.
    pub(super) fn person(&self, uid: &str, groups: &[&str]) {
        let dn = format!("uid={uid},ou=people,dc=corp");
        self.add(&dn, &[uid], &format!("{uid}!"), groups);
    }

    pub(super) fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// What it was asked since the last time.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn talk(mut stream: Box<dyn Stream>, shared: &Shared) {
    loop {
        let Some(request) = message(&mut *stream).await else {
            return;
        };
        let [id, operation] = &children(&request)[..] else {
            panic!("a request with controls");
        };
        let mood = *shared.mood.lock().unwrap();
        let is_start_tls = operation.0 == 0x77;
        if let (true, Some(tls)) = (is_start_tls, &shared.tls) {
            shared.asked.lock().unwrap().push(Asked::StartTls);
            let yes = whole(&id.1, 0x78, &result(0));
            stream.write_all(&yes).await.unwrap();
            stream = match tls.accept(stream).await {
                Ok(stream) => Box::new(stream),
                Err(_refused) => return,
            };
            continue;
        }
        let answers = match operation.0 {
            0x42 => return,
            0x60 => bind(&operation.1, shared),
            0x63 => search(&operation.1, shared, mood),
            _ => vec![(0x78, result(2))],
        };
        let mut bytes: Vec<u8> = answers
            .iter()
            .flat_map(|(tag, content)| whole(&id.1, *tag, content))
            .collect();
        match mood {
            Mood::Well | Mood::InPart => {}
            Mood::Silent => continue,
            Mood::HangsUp => return,
            Mood::Cuts => {
                bytes.truncate(bytes.len() / 2);
                stream.write_all(&bytes).await.ok();
                stream.shutdown().await.ok();
                return;
            }
            Mood::Http => bytes = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            Mood::Busy => bytes = whole(&id.1, operation.0 + 1, &result(51)),
            Mood::Refers => bytes = whole(&id.1, operation.0 + 1, &result(10)),
            Mood::Endless => bytes = vec![0x30, 0x84, 0x7f, 0xff, 0xff, 0xff, 2, 1],
            Mood::Astray => bytes = whole(&[99], operation.0 + 1, &result(0)),
        }
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Like real ones: without a password everybody is let in, as nobody.
fn bind(content: &[u8], shared: &Shared) -> Vec<(u8, Vec<u8>)> {
    let parts = children(content);
    let (name, password) = (text(&parts[1].1), text(&parts[2].1));
    let people = shared.people.lock().unwrap();
    let is_right = people.get(&name).is_some_and(|it| it.password == password);
    let code = if is_right || password.is_empty() {
        0
    } else {
        49
    };
    let asked = Asked::Bind(name, password);
    shared.asked.lock().unwrap().push(asked);
    vec![(0x61, result(code))]
}

fn search(content: &[u8], shared: &Shared, mood: Mood) -> Vec<(u8, Vec<u8>)> {
    let parts = children(content);
    let (base, filter) = (text(&parts[0].1), &parts[6]);
    let attributes: Vec<String> = children(&parts[7].1).iter().map(|it| text(&it.1)).collect();
    // One equality, or something that finds everything.
    let (attribute, value) = if filter.0 == 0xa3 {
        let operands = children(&filter.1);
        (text(&operands[0].1), text(&operands[1].1))
    } else {
        ("*".to_owned(), String::new())
    };
    shared.asked.lock().unwrap().push(Asked::Search(
        base.clone(),
        format!("({attribute}={value})"),
        attributes.clone(),
    ));
    let people = shared.people.lock().unwrap();
    let mut answers = Vec::new();
    if base.starts_with("ou=groups") {
        let person = people.get(&value).cloned().unwrap_or_default();
        for group in &person.groups {
            let dn = format!("cn={group},ou=groups,dc=corp");
            answers.push((0x64, entry(&dn, &[("cn", std::slice::from_ref(group))])));
        }
    } else {
        for (dn, person) in people.iter() {
            let is_meant = match attribute.as_str() {
                "uid" => person
                    .uid
                    .iter()
                    .any(|uid| uid.eq_ignore_ascii_case(&value)),
                _ => *dn == base,
            };
            if !is_meant {
                continue;
            }
            let groups: Vec<String> = person
                .groups
                .iter()
                .map(|group| format!("cn={group},ou=groups,dc=corp"))
                .collect();
            let in_part = mood == Mood::InPart;
            let member_of = if in_part {
                "memberOf;range=0-1499"
            } else {
                "memberOf"
            };
            let all = [("uid", &person.uid[..]), (member_of, &groups[..])];
            answers.push((0x64, entry(dn, &all)));
        }
    }
    // Another place, as Active Directory names some: nobody goes there.
    answers.push((0x73, element(0x04, b"ldap://elsewhere.corp/dc=corp")));
    answers.push((0x65, result(0)));
    answers
}

fn entry(dn: &str, attributes: &[(&str, &[String])]) -> Vec<u8> {
    let attributes = attributes.iter().map(|(name, values)| {
        let values: Vec<u8> = values
            .iter()
            .flat_map(|it| element(0x04, it.as_bytes()))
            .collect();
        let parts = [element(0x04, name.as_bytes()), element(0x31, &values)];
        element(0x30, &parts.concat())
    });
    let list = attributes.collect::<Vec<_>>().concat();
    [element(0x04, dn.as_bytes()), element(0x30, &list)].concat()
}

fn result(code: u8) -> Vec<u8> {
    [
        element(0x0a, &[code]),
        element(0x04, b""),
        element(0x04, b"because"),
    ]
    .concat()
}

fn whole(id: &[u8], tag: u8, content: &[u8]) -> Vec<u8> {
    element(0x30, &[element(0x02, id), element(tag, content)].concat())
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x84][..], &length, content].concat()
}

/// The elements in another one.
fn children(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let [tag, first, rest @ ..] = bytes {
        let (length, rest) = match *first {
            short @ 0..0x80 => (usize::from(short), rest),
            long => {
                let (digits, rest) = rest.split_at(usize::from(long & 0x7f));
                let length = digits.iter().fold(0, |all, it| all << 8 | usize::from(*it));
                (length, rest)
            }
        };
        let (content, after) = rest.split_at(length);
        all.push((*tag, content.to_vec()));
        bytes = after;
    }
    all
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The content of the next message.
async fn message(stream: &mut dyn Stream) -> Option<Vec<u8>> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.ok()?;
    assert_eq!(head[0], 0x30);
    let mut length = usize::from(head[1]);
    if length >= 0x80 {
        let mut digits = vec![0; length & 0x7f];
        stream.read_exact(&mut digits).await.ok()?;
        length = digits.iter().fold(0, |all, it| all << 8 | usize::from(*it));
    }
    let mut content = vec![0; length];
    stream.read_exact(&mut content).await.ok()?;
    Some(content)
}
