//! Proxies that remember what they were asked. Wherever a client wants to go, it gets to one server: names
//! need no resolver.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A running proxy; dropping it ends it and its connections.
pub(super) struct ProxyServer {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

/// The kind of proxy.
#[derive(Clone)]
pub(super) enum Manner {
    /// HTTP: answers each request with this, and makes a tunnel of a CONNECT that it answers with a 2xx.
    Http(fn(&str) -> String),
    /// SOCKS5, open for all, or for one user name and password; answers requests with this code.
    Socks(Option<(&'static str, &'static str)>, u8),
    /// Says this to whoever connects, and listens to nobody.
    Babbling(&'static str),
    /// Accepts, and is silent.
    Hanging,
}

impl ProxyServer {
    /// A proxy on loopback whose tunnels all end at `to`.
    pub(super) async fn start(manner: Manner, tls: Option<TlsAcceptor>, to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut task = JoinSet::new();
        let log = Arc::clone(&seen);
        task.spawn(async move {
            let mut running = JoinSet::new();
            loop {
                let (stream, _peer) = listener.accept().await.unwrap();
                let (manner, tls, log) = (manner.clone(), tls.clone(), Arc::clone(&log));
                running.spawn(async move {
                    // A client that goes away is no fault of the proxy's: the test looks at the client.
                    match tls {
                        None => drop(serve(stream, manner, &log, to).await),
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                drop(serve(stream, manner, &log, to).await);
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            seen,
            _task: task,
        }
    }

    /// Requests so far: the heads of HTTP requests, the targets of SOCKS5.
    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    manner: Manner,
    seen: &Mutex<Vec<String>>,
    to: SocketAddr,
) -> std::io::Result<()> {
    match manner {
        Manner::Hanging => std::future::pending().await,
        Manner::Http(answer) => loop {
            let head = read_head(&mut stream).await?;
            let reply = answer(&head);
            seen.lock().unwrap().push(head.clone());
            stream.write_all(reply.as_bytes()).await?;
            stream.flush().await?;
            if head.starts_with("CONNECT ") && reply.starts_with("HTTP/1.1 2") {
                let mut destination = TcpStream::connect(to).await?;
                copy_bidirectional(&mut stream, &mut destination).await?;
                return Ok(());
            }
        },
        Manner::Babbling(text) => {
            stream.write_all(text.as_bytes()).await?;
            std::future::pending().await
        }
        Manner::Socks(login, code) => {
            if !socks_greeting(&mut stream, login).await? {
                return Ok(());
            }
            let target = socks_target(&mut stream).await?;
            seen.lock().unwrap().push(target);
            let bound = [127, 0, 0, 1, 0, 1];
            stream.write_all(&[5, code, 0, 1]).await?;
            stream.write_all(&bound).await?;
            if code == 0 {
                let mut destination = TcpStream::connect(to).await?;
                copy_bidirectional(&mut stream, &mut destination).await?;
            }
            Ok(())
        }
    }
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

/// Returns if the client may go on.
async fn socks_greeting(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    login: Option<(&str, &str)>,
) -> std::io::Result<bool> {
    assert_eq!(stream.read_u8().await?, 5);
    let methods = read_counted(stream).await?;
    let wanted = if login.is_some() { 2 } else { 0 };
    if !methods.contains(&wanted) {
        stream.write_all(&[5, 0xff]).await?;
        return Ok(false);
    }
    stream.write_all(&[5, wanted]).await?;
    let Some((user, password)) = login else {
        return Ok(true);
    };
    assert_eq!(stream.read_u8().await?, 1);
    let said = (read_counted(stream).await?, read_counted(stream).await?);
    let right = said == (user.into(), password.into());
    stream.write_all(&[1, u8::from(!right)]).await?;
    Ok(right)
}

async fn socks_target(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    assert_eq!(head[..3], [5, 1, 0]);
    let host = match head[3] {
        1 => {
            let mut address = [0; 4];
            stream.read_exact(&mut address).await?;
            std::net::IpAddr::from(address).to_string()
        }
        4 => {
            let mut address = [0; 16];
            stream.read_exact(&mut address).await?;
            format!("[{}]", std::net::IpAddr::from(address))
        }
        3 => String::from_utf8(read_counted(stream).await?).unwrap(),
        other => panic!("address type {other}"),
    };
    Ok(format!("{host}:{}", stream.read_u16().await?))
}

async fn read_counted(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}
