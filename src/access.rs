//! Access: identities, permissions, and the one function that decides.
//!
//! A [`Principal`] is who a request comes from, after its credentials were looked at. [`Rules`] are the statements of all
//! policies, compiled, and who they are attached to. [`Rules::decide`] answers every question about them: a pull, a list,
//! the catalog, the admin API, and what the `access` commands ask. It is pure: it reads no file, no clock and no socket.
//!
//! The language is closed on purpose: a statement has an effect, actions, resource patterns, and conditions of five kinds.
//! So that what somebody may do can be computed, and not only tried.
//!
//! | file | what |
//! | --- | --- |
//! | `action` | the verbs, with the names that Alibaba Cloud's RAM has for them |
//! | `resource` | names of what is acted on, and patterns of them |
//! | `condition` | source address, tag, time, certificate, claim |
//! | `statement` | statements, policies, the built-in ones |
//! | `rules` | policies compiled, whom they are attached to, the decision |
//! | `trie` | patterns by their literal beginning |
//! | `principal` | who asks |
//! | `config` | what is configured |
//! | `credentials` | what clients send |
//! | `htpasswd` | a file of users |
//! | `passwords`, `failures` | slow hashes and who may have them calculated |
//! | `ldap` | users of a directory |
//! | `queue`, `remembered` | logins that wait; passwords that were right a moment ago |
//! | `scope`, `jwt`, `keys` | tokens that clients get at `/token` |
//! | `issue` | the token endpoint, without HTTP |
//! | `secret`, `people`, `manage` | tokens of this server, users and tokens of the catalogue, and how they are made |
//! | `limits` | requests, bytes and connections of each identity or address |
//! | `oidc` | tokens of other issuers |
//! | `active` | all of that, as it holds at one moment |
//! | `settings` | the part of the configuration that listeners ask for |
//! | `login` | tokens and passwords to identities |
//! | `found` | what came of credentials |
//! | `guard` | the front door: credentials to identities, questions to the rules |

pub mod action;
mod active;
pub mod condition;
pub mod config;
pub mod credentials;
mod failures;
mod found;
pub mod guard;
pub mod htpasswd;
mod issue;
mod jwt;
mod keys;
pub mod ldap;
pub mod limits;
mod login;
pub mod manage;
pub mod oidc;
mod passwords;
mod people;
pub mod principal;
mod queue;
pub mod ram;
mod remembered;
pub mod resource;
pub mod rules;
pub mod scope;
mod secret;
pub mod settings;
pub mod statement;
mod trie;

pub use crate::net::Network;
pub use crate::net::Secret;
pub use crate::net::is_public;
pub use action::{Action, Actions};
pub use condition::{Condition, Context};
pub use config::{AdminAccess, Config, Enforcement, Sharing};
pub use found::{IdentifyError, result_of};
pub use guard::{AccessError, Guard, Identified, Verdict};
pub use issue::{Grant, Granted, Wanted};
pub use keys::{KeyError, SigningSeed};
pub use manage::{ManageError, Registrar, TokenInfo, TokenWanted, UserInfo};
pub use principal::{Kind, Principal};
pub use resource::{Pattern, Resource};
pub use rules::{Attachment, Decision, Mode, Rules, RulesError, Subject};
pub use scope::Scope;
pub use settings::Settings;
pub use statement::{Effect, Policy, Statement};
