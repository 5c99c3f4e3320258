//! The Unix socket of the admin listener: for the user that roadstead runs as, and root.

use super::BindError;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net;
use std::path::Path;
use tokio::net::{UnixListener, UnixStream};

/// The mode of the socket's file. The kernel's word on the peer decides; this keeps others from trying.
const MODE: u32 = 0o600;

/// The number of the user root.
const ROOT: u32 = 0;

/// Binds a socket. One that a server has left behind, on which nobody listens, is replaced.
///
/// # Errors
/// [`BindError::Socket`]: another server listens there, or something else has this name.
pub(super) fn bind(path: &Path) -> Result<UnixListener, BindError> {
    bind_over(path, is_left_behind).map_err(|source| BindError::Socket {
        path: path.to_owned(),
        source,
    })
}

/// Binds a socket, if need be in the place of what `may_go`.
///
/// # Errors
/// The operating system's.
pub(crate) fn bind_over(path: &Path, may_go: impl Fn(&Path) -> bool) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path).or_else(|error| {
        if error.kind() != io::ErrorKind::AddrInUse || !may_go(path) {
            return Err(error);
        }
        remove(path)?;
        UnixListener::bind(path)
    })?;
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// A socket that is bound already, whose file is whose it is: the kernel's word on the peer decides.
///
/// # Errors
/// [`BindError::Socket`].
pub(super) fn of(bound: net::UnixListener, path: Option<&Path>) -> Result<UnixListener, BindError> {
    let set = bound.set_nonblocking(true);
    let listener = set.and_then(|()| UnixListener::from_std(bound));
    listener.map_err(|source| BindError::Socket {
        path: path.unwrap_or(Path::new("an inherited socket")).to_owned(),
        source,
    })
}

/// True if a socket has this name, whoever listens there.
pub(crate) fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket())
}

fn is_left_behind(path: &Path) -> bool {
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket(path) && net::UnixStream::connect(path).is_err_and(refused)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a socket is no file of the store, and cannot be bound where one is"
)]
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

/// True if a connection is of somebody who may do everything here.
pub(crate) fn is_operator(stream: &UnixStream) -> bool {
    users_of(stream).is_some_and(|(peer, own)| may(peer, own))
}

/// True if a connection is of a process that this one may come after: root comes after a service's user, too.
pub(crate) fn may_be_followed(stream: &UnixStream) -> bool {
    users_of(stream).is_some_and(|(peer, own)| may(peer, own) || may(own, peer))
}

/// The users of the other end and of this process.
fn users_of(stream: &UnixStream) -> Option<(u32, u32)> {
    let peer = stream.peer_cred().ok()?;
    Some((peer.uid(), rustix::process::geteuid().as_raw()))
}

fn may(peer: u32, own: u32) -> bool {
    peer == ROOT || peer == own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_servers_own_user_may() {
        for (peer, own, expected) in [
            (0, 0, true),
            (0, 998, true),
            (998, 998, true),
            (1000, 998, false),
            (1000, 0, false),
        ] {
            assert_eq!(may(peer, own), expected, "{peer} at {own}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_was_left_is_replaced_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let first = bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        let error = bind(&path).unwrap_err().to_string();
        assert!(
            error.contains("admin.sock") && error.contains("in use"),
            "{error}"
        );
        drop(first);
        drop(bind(&path).unwrap());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        bind(&link).unwrap_err();
        let kept = fs::symlink_metadata(&link).unwrap();
        assert!(kept.file_type().is_symlink());
    }
}
