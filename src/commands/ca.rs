//! `ca`: the local authority of transparent mode.

#![expect(
    clippy::disallowed_methods,
    reason = "an authority is not the store's: it is written where the user says, once"
)]

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use clap::{Args, Subcommand};
use rustix::fs::{Gid, Uid, fchown};
use serde::Serialize;

use super::output;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::{Config, Overrides};
use crate::oci::directory::token_server;
use crate::server::read_authority;
use crate::server::transparent::{Authority, NewAuthority, TransparentConfig, make};

/// Permissions of a directory that is made for it.
const DIRECTORY_MODE: u32 = 0o700;
/// The certificate is for everybody.
const CERT_MODE: u32 = 0o644;
/// The key is for its owner alone: a server refuses any other.
const KEY_MODE: u32 = 0o600;

/// The local authority of transparent mode.
#[derive(Clone, Debug, Subcommand)]
pub enum CaCommand {
    /// Make an authority that can sign for the names of the configured upstreams, and for no others
    Init(Init),
    /// Print what the authority is, and until when; exit 1 if it does not cover all names, or its time is over
    Show(Show),
}

/// `ca init`.
#[derive(Clone, Debug, Args)]
pub struct Init {
    /// Write ca.crt and ca.key into this directory [default: where the configuration says, else the state directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// `ca show`.
#[derive(Clone, Debug, Args)]
pub struct Show {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// The configuration that names the upstreams.
#[derive(Clone, Debug, Args)]
struct Place {
    /// The configuration file, to find the upstreams and the state directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The state directory, instead of the configuration's
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
}

/// An authority, as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    ca: String,
    sha256: String,
    not_after: String,
    /// Names that it may sign for; none: any.
    permitted: Option<Vec<String>>,
    /// Configured names that it may not sign for.
    missing: Vec<String>,
    expired: bool,
}

impl CaCommand {
    /// The configuration that it is about.
    ///
    /// # Errors
    /// The configuration has an error.
    pub fn load(&self) -> Result<Config, crate::config::ConfigError> {
        let place = match self {
            Self::Init(it) => &it.place,
            Self::Show(it) => &it.place,
        };
        Config::load(&Overrides {
            config: place.config.clone(),
            state_dir: place.state_dir.clone(),
            ..Overrides::default()
        })
    }

    /// Does it, and says whether all is well.
    ///
    /// # Errors
    /// One line that names the file and says what to do.
    pub fn run(&self, config: &Config) -> Result<bool, String> {
        let usual = Usual::of(config);
        let now = SystemClock.now();
        match self {
            Self::Init(init) => {
                let (ca, ca_key) = match &init.out {
                    Some(dir) => (dir.join("ca.crt"), dir.join("ca.key")),
                    None => (
                        usual.transparent.ca.clone(),
                        usual.transparent.ca_key.clone(),
                    ),
                };
                let hosts = usual.transparent.certified();
                let made = make(&hosts, &usual.excluded, now).map_err(|error| error.to_string())?;
                write(&made, &ca, &ca_key)?;
                let authority = read(&ca, &ca_key)?;
                let is_usual = (&ca, &ca_key) == (&usual.transparent.ca, &usual.transparent.ca_key);
                output::write(&advice(&authority, &ca, &ca_key, &hosts, is_usual));
                Ok(true)
            }
            Self::Show(show) => {
                let TransparentConfig { ca, ca_key, .. } = &usual.transparent;
                let shown = Shown::of(&read(ca, ca_key)?, ca, &usual.transparent, now);
                if show.json {
                    output::say_json(&shown);
                } else {
                    output::write(&shown.text());
                }
                Ok(shown.missing.is_empty() && !shown.expired)
            }
        }
    }
}

/// The table of transparent mode, as it is or would be if it were empty.
struct Usual {
    transparent: TransparentConfig,
    /// Names that must not be signed for: token servers, which users' passwords go to.
    excluded: Vec<String>,
}

impl Usual {
    fn of(config: &Config) -> Self {
        let configured = config.server.tls.as_ref();
        let configured = configured.and_then(|tls| tls.transparent.clone());
        let dir = &config.state.dir;
        let transparent = configured.unwrap_or_else(|| TransparentConfig {
            ca: dir.join("ca.crt"),
            ca_key: dir.join("ca.key"),
            hosts: config.transparent_hosts(),
        });
        let names = transparent.certified();
        let upstreams = config.upstreams.iter();
        let excluded = upstreams.filter_map(|upstream| token_server(&upstream.name));
        let excluded = excluded.filter(|server| !names.iter().any(|name| name == server));
        Self {
            excluded: excluded.map(str::to_owned).collect(),
            transparent,
        }
    }
}

fn read(ca: &Path, ca_key: &Path) -> Result<Authority, String> {
    read_authority(ca, ca_key).map_err(|error| error.to_string())
}

/// Writes both files, or neither. None of them may be there: clients trust an authority that is there already.
fn write(made: &NewAuthority, ca: &Path, ca_key: &Path) -> Result<(), String> {
    for path in [ca, ca_key] {
        if fs::symlink_metadata(path).is_ok() {
            return Err(format!(
                "{} is there already, and clients may trust it: nothing was changed; move it away, or write elsewhere with --out",
                path.display()
            ));
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        if let Some(dir) = dir {
            let made = DirBuilder::new()
                .recursive(true)
                .mode(DIRECTORY_MODE)
                .create(dir);
            made.map_err(|error| cannot(dir, &error))?;
        }
    }
    // The key first: a certificate without one would be taken for an authority.
    create(ca_key, &made.key, KEY_MODE).map_err(|error| cannot(ca_key, &error))?;
    create(ca, &made.cert, CERT_MODE).map_err(|error| {
        // Nobody has used it.
        fs::remove_file(ca_key).ok();
        cannot(ca, &error)
    })
}

fn create(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    let done = fill(path, &mut file, text);
    if done.is_err() {
        fs::remove_file(path).ok();
    }
    done
}

fn fill(path: &Path, file: &mut File, text: &str) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = File::open(dir.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    // Root makes it for the user that the directory belongs to: the server's, which has to read it.
    let owner = dir.metadata()?;
    if rustix::process::geteuid().is_root() && owner.uid() != 0 {
        let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
        fchown(&*file, Some(uid), Some(gid))?;
    }
    file.sync_all()?;
    dir.sync_all()
}

fn cannot(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

impl Shown {
    fn of(
        authority: &Authority,
        ca: &Path,
        configured: &TransparentConfig,
        now: Timestamp,
    ) -> Self {
        let missing = configured.certified().into_iter();
        Self {
            ca: ca.display().to_string(),
            sha256: fingerprint(authority),
            not_after: date(authority.not_after()),
            permitted: authority.permitted().map(<[String]>::to_vec),
            missing: missing.filter(|host| !authority.covers(host)).collect(),
            expired: authority.not_after() <= now,
        }
    }

    fn text(&self) -> String {
        let names = self.permitted.as_ref().map(|names| names.join(", "));
        let names = names.unwrap_or_else(|| "any: it has no name constraints".to_owned());
        let mut text = format!(
            "certificate   {}\nSHA-256       {}\nvalid until   {}\nsigns for     {names}\n",
            self.ca, self.sha256, self.not_after
        );
        if !self.missing.is_empty() {
            let missing = self.missing.join(", ");
            writeln!(
                text,
                "not covered   {missing}: run `roadstead ca init` again"
            )
            .ok();
        }
        if self.expired {
            text.push_str("its time is over: run `roadstead ca init` again\n");
        }
        text
    }
}

/// The next steps.
fn advice(
    authority: &Authority,
    ca: &Path,
    ca_key: &Path,
    hosts: &[String],
    is_usual: bool,
) -> String {
    let (shown, key) = (ca.display(), ca_key.display());
    let until = date(authority.not_after());
    let keys = if is_usual {
        String::new()
    } else {
        let quote = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
        format!(
            "       ca = {}\n       ca_key = {}\n",
            quote(ca),
            quote(ca_key)
        )
    };
    format!(
        "{shown} is the certificate, valid until {until}
SHA-256 {}
{key} is its key: keep it here, and readable by the user of the server alone

It can sign for {} and hosts below them, and for nothing else.

Next:
1. Copy {shown} to the clients, and make them trust it:
     Debian, Ubuntu   /usr/local/share/ca-certificates/roadstead.crt, then update-ca-certificates
     RHEL, Fedora     /etc/pki/ca-trust/source/anchors/roadstead.crt, then update-ca-trust
     restart dockerd or containerd; they read it at the start
     Podman, Skopeo, and Docker for all but Docker Hub, also read /etc/docker/certs.d/NAME/ca.crt
2. Configure the server, and restart it:
       [server]
       listen = \"0.0.0.0:443\"
       [server.transparent]
{keys}3. Lead these names to the server, for the clients alone, in their DNS or /etc/hosts:
       ADDRESS {}
   The server itself must go on to see the registries' own addresses; or write them as `resolve` of its endpoints.
",
        fingerprint(authority),
        hosts.join(", "),
        hosts.join(" "),
    )
}

/// The hash by which a certificate is compared, as browsers and openssl show it.
fn fingerprint(authority: &Authority) -> String {
    let hash = digest(&SHA256, authority.certificate());
    let bytes = hash.as_ref().iter().map(|byte| format!("{byte:02X}"));
    bytes.collect::<Vec<_>>().join(":")
}

fn date(at: Timestamp) -> String {
    let at = Duration::from_millis(at.0);
    let at = UNIX_EPOCH.checked_add(at).unwrap_or(UNIX_EPOCH);
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_there_is_not_overwritten_and_nothing_is_left_half_done() {
        let made = make(&["quay.io".to_owned()], &[], SystemClock.now()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("new/state");
        let (ca, key) = (place.join("ca.crt"), place.join("ca.key"));
        write(&made, &ca, &key).unwrap();
        let bits = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((bits(&key), bits(&place)), (KEY_MODE, DIRECTORY_MODE));
        assert_eq!(bits(&ca) & 0o400, 0o400);
        assert!(read(&ca, &key).unwrap().covers("quay.io"));
        let before = (fs::read(&ca).unwrap(), fs::read(&key).unwrap());
        let other = make(&["ghcr.io".to_owned()], &[], SystemClock.now()).unwrap();
        let error = write(&other, &ca, &key).unwrap_err();
        assert!(error.contains("ca.crt is there already"), "{error}");
        fs::remove_file(&ca).unwrap();
        let error = write(&other, &ca, &key).unwrap_err();
        assert!(error.contains("ca.key is there already"), "{error}");
        assert!(!ca.exists() && fs::read(&key).unwrap() == before.1);
        // The certificate cannot be written: its key does not stay.
        let bad = dir.path().join("file");
        fs::write(&bad, "").unwrap();
        write(&other, &bad.join("ca.crt"), &place.join("other.key")).unwrap_err();
        assert!(!place.join("other.key").exists());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_its_mode() {
        let made = make(&["quay.io".to_owned()], &[], SystemClock.now()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (ca, key) = (dir.path().join("ca.crt"), dir.path().join("ca.key"));
        write(&made, &ca, &key).unwrap();
        for (mode, expected) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o604, false),
            (0o620, false),
            (0o644, false),
        ] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            let found = read(&ca, &key);
            assert_eq!(found.is_ok(), expected, "{mode:o}");
            if let Err(error) = found {
                let said = format!("its mode is {mode:04o}");
                assert!(error.contains("ca.key") && error.contains(&said), "{error}");
            }
        }
    }
}
