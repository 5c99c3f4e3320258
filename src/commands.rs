//! The commands: clients of a mirror that runs, or of the store where none does.
//!
//! | module | commands |
//! | --- | --- |
//! | `cache` | `status`, `health`, `ls`, `du`, `inspect`, `rm`, `gc`, `pin`, `unpin` |
//! | `warm` | `warm` |
//! | `airgap` | `export`, `import` |
//! | `verify` | `verify` |
//! | `bench` | `bench` |
//! | `client` | requests to an admin listener |

pub mod airgap;
pub mod bench;
pub mod cache;
pub mod client;
pub mod verify;
pub mod warm;
