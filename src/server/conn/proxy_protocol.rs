//! The PROXY protocol, versions 1 and 2: a balancer that passes on bytes says first whose they are.
//!
//! Specification: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, sections 2.1 and 2.2. The head comes
//! before TLS. Exactly its bytes are taken from the socket, since what follows is another protocol's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// The longest head of version 1, its line's end included (section 2.1).
const V1_BYTES_MAX: usize = 107;

/// The beginning of a head of version 2, and its length without what it counts itself (section 2.2).
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;

/// The most that a head of version 2 may count: two Unix addresses with room for as much again of extensions. Balancers
/// send some 100 bytes.
const V2_COUNTED_BYTES_MAX: usize = 536;

/// The longest head.
const BYTES_MAX: usize = V2_FIXED_BYTES + V2_COUNTED_BYTES_MAX;

/// A head, as far as it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// More of it is to come.
    Begun,
    /// Its length, and the client that it names.
    Whole(usize, Option<SocketAddr>),
}

/// Reason why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Bytes of another protocol.
    #[error("the connection does not begin with a head of the PROXY protocol")]
    Missing,
    /// A head that does not end.
    #[error("the PROXY head is too long")]
    Long,
    /// A head that cannot be read.
    #[error("the PROXY head makes no sense")]
    Wrong,
}

impl From<HeadError> for io::Error {
    fn from(error: HeadError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Takes the head from a connection, and returns the client that it names. Nobody waits longer for it than the watch of the
/// connection lets a client take for its first request.
///
/// # Errors
/// There is none, it is wrong, or the connection ends before it does.
pub(crate) async fn take(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut head = [0; BYTES_MAX];
    let mut taken = 0;
    loop {
        let rest = head.get_mut(taken..).unwrap_or_default();
        let there = match stream.peek(rest).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            there => taken + there,
        };
        let came = head.get(..there).unwrap_or_default();
        let (end, whose) = match parse(came)? {
            Head::Begun => (there, None),
            Head::Whole(length, source) => (length, Some(source)),
        };
        let rest = head.get_mut(taken..end).unwrap_or_default();
        stream.read_exact(rest).await?;
        taken = end;
        if let Some(source) = whose {
            return Ok(source);
        }
    }
}

/// Reads a head from the bytes that have come.
///
/// # Errors
/// No further bytes make a head of them.
pub fn parse(bytes: &[u8]) -> Result<Head, HeadError> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(one, other)| one == other);
    if begins(V2_SIGNATURE) {
        return v2(bytes);
    }
    if begins(b"PROXY ") {
        return v1(bytes);
    }
    Err(HeadError::Missing)
}

fn v1(bytes: &[u8]) -> Result<Head, HeadError> {
    let line = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = line.windows(2).position(|end| end == b"\r\n") else {
        return if line.len() == V1_BYTES_MAX {
            Err(HeadError::Long)
        } else {
            Ok(Head::Begun)
        };
    };
    let line = line.get(..end).unwrap_or_default();
    let text = std::str::from_utf8(line).map_err(|_| HeadError::Wrong)?;
    let source = v1_source(text)?;
    Ok(Head::Whole(end + 2, source))
}

fn v1_source(line: &str) -> Result<Option<SocketAddr>, HeadError> {
    let mut words = line.split(' ').skip(1);
    let mut word = || words.next().ok_or(HeadError::Wrong);
    let family = word()?;
    if family == "UNKNOWN" {
        // The rest of the line is to be ignored.
        return Ok(None);
    }
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits)
    };
    let (source, target) = (address(word()?), address(word()?));
    let (port, target_port) = (number(word()?), number(word()?));
    let is_over = words.next().is_none() && target.is_some() && target_port.is_some();
    match (source, port) {
        (Some(source), Some(port)) if is_over => {
            Ok(Some(SocketAddr::new(source.to_canonical(), port)))
        }
        _ => Err(HeadError::Wrong),
    }
}

fn v2(bytes: &[u8]) -> Result<Head, HeadError> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(Head::Begun);
    };
    let [.., version, family, high, low] = *fixed;
    let counted = usize::from(u16::from_be_bytes([high, low]));
    let (version, command) = (version >> 4, version & 0xf);
    if version != 2 || command > 1 {
        return Err(HeadError::Wrong);
    }
    if counted > V2_COUNTED_BYTES_MAX {
        return Err(HeadError::Long);
    }
    let Some(rest) = rest.get(..counted) else {
        return Ok(Head::Begun);
    };
    let length = V2_FIXED_BYTES + counted;
    // LOCAL: the balancer speaks for itself, as in a check of health.
    if command == 0 {
        return Ok(Head::Whole(length, None));
    }
    let source = match family {
        // TCP over IPv4: two addresses, two ports.
        0x11 => {
            let (addresses, ports) = split::<8>(rest)?;
            let [a, b, c, d, ..] = *addresses;
            Some((IpAddr::from([a, b, c, d]), ports))
        }
        0x21 => {
            let (addresses, ports) = split::<32>(rest)?;
            let source = addresses.first_chunk::<16>().copied().unwrap_or_default();
            Some((IpAddr::from(source), ports))
        }
        // Unspecified, UDP and Unix sockets: no address of a client of ours.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => None,
        _ => return Err(HeadError::Wrong),
    };
    let source = source.map(|(address, port)| SocketAddr::new(address.to_canonical(), port));
    Ok(Head::Whole(length, source))
}

/// Addresses, and the source's port.
fn split<const BYTES: usize>(rest: &[u8]) -> Result<(&[u8; BYTES], u16), HeadError> {
    let (addresses, rest) = rest.split_first_chunk::<BYTES>().ok_or(HeadError::Wrong)?;
    let (ports, _extensions) = rest.split_first_chunk::<4>().ok_or(HeadError::Wrong)?;
    let [high, low, ..] = *ports;
    Ok((addresses, u16::from_be_bytes([high, low])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2_head(version: u8, family: u8, counted: &[u8]) -> Vec<u8> {
        let length = u16::try_from(counted.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[version, family][..], &length, counted].concat()
    }

    fn heads() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 1, 187];
        let v6 = [
            &[0x20, 1, 0xd, 0xb8][..],
            &[0; 11],
            &[1],
            &[0; 16],
            &[0, 80, 1, 187],
        ]
        .concat();
        let mapped = [
            &[0; 10][..],
            &[255, 255, 192, 0, 2, 9],
            &[0; 16],
            &[0, 81, 1, 187],
        ]
        .concat();
        let extended = [&v4[..], &[4, 0, 3, 1, 2, 3]].concat();
        vec![
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n".to_vec(),
                Some("192.0.2.7:4660"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::1 80 443\r\n".to_vec(),
                Some("[2001:db8::1]:80"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 x y\r\n".to_vec(), None),
            (v2_head(0x21, 0x11, &v4), Some("192.0.2.7:4660")),
            (v2_head(0x21, 0x11, &extended), Some("192.0.2.7:4660")),
            (v2_head(0x21, 0x21, &v6), Some("[2001:db8::1]:80")),
            (v2_head(0x21, 0x21, &mapped), Some("192.0.2.9:81")),
            (v2_head(0x21, 0x00, &[]), None),
            (v2_head(0x21, 0x31, &[b'/'; 216]), None),
            (v2_head(0x20, 0x00, &[]), None),
            (v2_head(0x20, 0x11, &v4), None),
            (
                v2_head(0x21, 0x11, &[&v4[..], &[0; 524]].concat()),
                Some("192.0.2.7:4660"),
            ),
        ]
    }

    #[test]
    fn heads_are_read_wherever_they_are_cut() {
        for (head, source) in heads() {
            let source = source.map(|text| text.parse().unwrap());
            let whole = Ok(Head::Whole(head.len(), source));
            for end in 0..head.len() {
                assert_eq!(parse(&head[..end]), Ok(Head::Begun), "{head:?} up to {end}");
            }
            assert_eq!(parse(&head), whole, "{head:?}");
            let followed = [&head[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(parse(&followed), whole, "{head:?} and more");
        }
    }

    #[test]
    fn whatever_is_no_head_is_refused() {
        let long_line = [b"PROXY UNKNOWN ", &[b'x'; 100][..], b"\r\n"].concat();
        for (bytes, error) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), HeadError::Missing),
            (b"\x16\x03\x01".to_vec(), HeadError::Missing),
            (b"proxy TCP4".to_vec(), HeadError::Missing),
            (b"PROXYTCP4".to_vec(), HeadError::Missing),
            (long_line, HeadError::Long),
            (b"PROXY \r\n".to_vec(), HeadError::Wrong),
            (b"PROXY TCP4\r\n".to_vec(), HeadError::Wrong),
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n".to_vec(),
                HeadError::Wrong,
            ),
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2 3\r\n".to_vec(),
                HeadError::Wrong,
            ),
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 +1 2\r\n".to_vec(),
                HeadError::Wrong,
            ),
            (
                b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 2\r\n".to_vec(),
                HeadError::Wrong,
            ),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(), HeadError::Wrong),
            (
                b"PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(),
                HeadError::Wrong,
            ),
            (
                b"PROXY TCP5 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(),
                HeadError::Wrong,
            ),
            (
                b"PROXY TCP4 \xff 10.0.0.1 1 2\r\n".to_vec(),
                HeadError::Wrong,
            ),
            (v2_head(0x11, 0x11, &[0; 12]), HeadError::Wrong),
            (v2_head(0x22, 0x11, &[0; 12]), HeadError::Wrong),
            (v2_head(0x21, 0x41, &[0; 12]), HeadError::Wrong),
            (v2_head(0x21, 0x11, &[0; 11]), HeadError::Wrong),
            (v2_head(0x21, 0x21, &[0; 35]), HeadError::Wrong),
            (v2_head(0x21, 0x11, &[0; 537]), HeadError::Long),
        ] {
            assert_eq!(parse(&bytes), Err(error), "{bytes:?}");
        }
    }
}
