//! Two processes, one after the other, on the same directories and sockets: the old one hands over, the new one takes
//! over, and no request fails.
//!
//! ```text
//! new                                     old
//! connects to take-over.sock ──────────▶  sees whose process it is
//!                            ◀──────────  sockets: what listens, with the descriptors
//! reads all that it needs
//! go                         ──────────▶  asks clients to connect anew; lets nobody in; suspends fills, whose readers go
//!                                         on past the store; closes store and catalogue
//!                            ◀──────────  released
//! opens both, serves
//! serving                    ──────────▶  finishes what is under way, and ends
//! ```
//!
//! Until `go` the old process has done nothing, and goes on when the new one goes away. When that goes away later, the old
//! one serves on: what is stored from its files, and all else past the store.
//!
//! | file | what |
//! | --- | --- |
//! | `hand_over` | the old process's part |
//! | `take_over` | the new one's |
//! | `channel` | messages between them, and the descriptors that come with one |

mod channel;
mod hand_over;
mod take_over;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) use hand_over::HandOver;
pub use take_over::TakeOverError;
pub(super) use take_over::Taken;

/// The socket in the state directory at which a process hands over.
const SOCKET: &str = "take-over.sock";

/// The longest time that the old process may take until it has closed its store: it has to wait for its disk.
const RELEASE_WAIT_MAX: Duration = Duration::from_secs(15);

/// The longest time that the new process may take to read what it needs, and then to open the store.
const SUCCESSOR_WAIT_MAX: Duration = Duration::from_mins(2);

/// The longest time for a short message.
const WORD_WAIT_MAX: Duration = Duration::from_secs(5);

const GO: &str = "go";
const RELEASED: &str = "released";
const SERVING: &str = "serving";

fn socket_of(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET)
}
