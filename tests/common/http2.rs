//! An HTTP/2 client that sends what it is told to, frame by frame (RFC 9113), over plain TCP.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// `SETTINGS_INITIAL_WINDOW_SIZE`
const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame that came.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection. It answers SETTINGS and PING, and does nothing else by itself.
#[derive(Debug)]
pub struct Http2 {
    socket: TcpStream,
    authority: String,
}

impl Http2 {
    /// Connects, and lets each stream send so much before it is told more.
    pub async fn connect(address: SocketAddr, window: u32) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut client = Self {
            socket,
            authority: address.to_string(),
        };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        client.socket.write_all(preface).await.unwrap();
        let mut setting = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
        setting.extend(window.to_be_bytes());
        client.send(SETTINGS, 0, 0, &setting).await;
        client
    }

    /// Sends a frame. That the other side is gone shows in what comes.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let frame = frame(kind, flags, stream, payload);
        drop(self.socket.write_all(&frame).await);
    }

    /// Sends these bytes, whatever they are.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        drop(self.socket.write_all(bytes).await);
    }

    /// Asks for something.
    pub async fn get(&mut self, stream: u32, path: &str) {
        let block = self.head(path, &[]);
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, &block)
            .await;
    }

    /// Begins a head that never ends.
    pub async fn begin_head(&mut self, stream: u32, path: &str) {
        let block = self.head(path, &[]);
        self.send(HEADERS, END_STREAM, stream, &block).await;
    }

    /// Goes on with it.
    pub async fn continue_head(&mut self, stream: u32) {
        self.send(CONTINUATION, 0, stream, &literal("x-more", "and more"))
            .await;
    }

    /// A GET's head.
    pub fn head(&self, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
        // `:method: GET`, `:scheme: http`, `:path` and `:authority` by their places in the static table (RFC 7541).
        let mut block = vec![0x82, 0x86, 0x04];
        text(&mut block, path);
        block.push(0x01);
        text(&mut block, &self.authority);
        for (name, value) in headers {
            block.extend(literal(name, value));
        }
        block
    }

    /// A GET and that it is taken back, as bytes.
    pub fn get_and_reset(&self, stream: u32, path: &str) -> Vec<u8> {
        let block = self.head(path, &[]);
        let mut both = frame(HEADERS, END_STREAM | END_HEADERS, stream, &block);
        both.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        both
    }

    /// Takes more of a stream, or (0) of all.
    pub async fn take(&mut self, stream: u32, bytes: u32) {
        self.send(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
            .await;
    }

    /// The next frame that is not about the connection's own business; `None` when it is over.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = within("a frame", self.read()).await?;
            match frame.kind {
                SETTINGS | PING if frame.flags & ACK == 0 => {
                    let payload = if frame.kind == PING {
                        &frame.payload[..]
                    } else {
                        &[]
                    };
                    self.send(frame.kind, ACK, 0, payload).await;
                }
                SETTINGS | PING | WINDOW_UPDATE => {}
                _ => return Some(frame),
            }
        }
    }

    /// The next frame of this kind, others left out.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.socket.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
            payload,
        })
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    text(&mut field, name);
    text(&mut field, value);
    field
}

/// A string without Huffman's code, of less than 127 bytes.
fn text(block: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).unwrap();
    assert!(length < 127, "{text} is too long for one byte of length");
    block.push(length);
    block.extend(text.as_bytes());
}
