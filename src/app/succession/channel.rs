//! Lines between two processes of one user, over a Unix socket; descriptors may come with them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The most descriptors of one message: the kernel takes no more (`SCM_MAX_FD`).
pub(super) const DESCRIPTORS_MAX: usize = 253;

/// The longest line: that of all sockets.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// A connection to the other process.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    /// Bytes after the last line.
    read: Vec<u8>,
}

impl Channel {
    /// Over a connection whose other end may have and say what it likes.
    pub(super) fn of(stream: UnixStream) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// Sends a line, with descriptors.
    pub(super) async fn send(
        &self,
        line: &str,
        descriptors: &[BorrowedFd<'_>],
        wait_max: Duration,
    ) -> io::Result<()> {
        let mut bytes = line.as_bytes().to_vec();
        bytes.push(b'\n');
        let sending = async {
            let mut rest = bytes.as_slice();
            let mut with = descriptors;
            while !rest.is_empty() {
                let send = || send_some(self.stream.as_fd(), rest, with);
                let count = self.stream.async_io(Interest::WRITABLE, send).await?;
                rest = rest.get(count..).unwrap_or_default();
                with = &[];
            }
            Ok(())
        };
        in_time(wait_max, sending).await
    }

    /// The next line, and the descriptors that have come so far: those of the line behind it may be among them.
    pub(super) async fn receive(
        &mut self,
        wait_max: Duration,
    ) -> io::Result<(String, Vec<OwnedFd>)> {
        let mut descriptors = Vec::new();
        let receiving = async {
            loop {
                if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = self.read.drain(..=end).collect();
                    let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
                    return Ok((line, descriptors));
                }
                if self.read.len() > LINE_BYTES_MAX {
                    return Err(io::Error::other("its message is too long"));
                }
                let (read, stream) = (&mut self.read, &self.stream);
                let receive = || receive_some(stream.as_fd(), read, &mut descriptors);
                let received = stream.async_io(Interest::READABLE, receive).await?;
                if received == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        };
        in_time(wait_max, receiving).await
    }
}

async fn in_time<T>(
    wait_max: Duration,
    doing: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let late = |_late| Err(io::Error::from(io::ErrorKind::TimedOut));
    tokio::time::timeout(wait_max, doing)
        .await
        .unwrap_or_else(late)
}

fn send_some(to: BorrowedFd<'_>, bytes: &[u8], with: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(with)) {
        return Err(io::Error::other("there are too many listeners"));
    }
    let sent = sendmsg(
        to,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(sent)
}

fn receive_some(
    from: BorrowedFd<'_>,
    read: &mut Vec<u8>,
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(from, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let count = received.bytes;
    read.extend_from_slice(bytes.get(..count).unwrap_or_default());
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsRawFd as _;

    const WAIT_MAX: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn lines_come_whole_and_descriptors_with_them() {
        let (one, other) = UnixStream::pair().unwrap();
        let (giver, mut taker) = (Channel::of(one), Channel::of(other));
        let (mut reader, writer) = io::pipe().unwrap();
        let long = "x".repeat(100_000);
        let giving = async {
            giver.send("first", &[], WAIT_MAX).await.unwrap();
            let descriptors = [writer.as_fd(), writer.as_fd()];
            giver.send(&long, &descriptors, WAIT_MAX).await.unwrap();
        };
        let taking = async {
            let (first, mut descriptors) = taker.receive(WAIT_MAX).await.unwrap();
            assert_eq!(first, "first");
            let (second, more) = taker.receive(WAIT_MAX).await.unwrap();
            descriptors.extend(more);
            (second, descriptors)
        };
        let ((), (line, descriptors)) = tokio::join!(giving, taking);
        assert_eq!(line, long);
        assert_eq!(descriptors.len(), 2);
        assert_ne!(descriptors[0].as_raw_fd(), writer.as_raw_fd());
        drop(writer);
        for descriptor in descriptors {
            std::fs::File::from(descriptor).write_all(b"a").unwrap();
        }
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "aa");
        drop(giver);
        let gone = taker.receive(WAIT_MAX).await.unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_refused() {
        let (mut one, other) = UnixStream::pair().unwrap();
        let mut taker = Channel::of(other);
        let endless = vec![b'x'; 2 * LINE_BYTES_MAX];
        let (sent, got) = tokio::join!(
            tokio::io::AsyncWriteExt::write_all(&mut one, &endless),
            async {
                let got = taker.receive(WAIT_MAX).await;
                drop(taker);
                got
            }
        );
        assert!(got.unwrap_err().to_string().contains("too long"));
        sent.unwrap_err();
    }
}
