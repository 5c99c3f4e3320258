//! The operator's commands: they look into a server that runs, or, where none does, into its directory.
//!
//! | file | what it does |
//! | --- | --- |
//! | `reach` | finds the server, or opens the directory |

pub mod reach;
