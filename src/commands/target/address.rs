//! The address of a server: named by a flag or a variable, or found in the configuration.
//!
//! A command against a server needs nothing of the server's configuration but an address, and that only where the user
//! names none. A key that is misspelt there, a variable that means nothing, or a password file that this user may not
//! read, is therefore no error as long as the address can be told.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};
use url::Url;

use super::admin::{AdminServer, AdminTrust};
use crate::config::{Config, Loaded, Overrides};
use crate::format::harmless;
use crate::net::ClientCertificate;

/// The variable that names the admin listener.
pub const ADMIN_VARIABLE: &str = "ROADSTEAD_ADMIN";

/// The variable that names the client listener.
pub const SERVER_VARIABLE: &str = "ROADSTEAD_SERVER";

/// The default ports, for a host without one (`config::defaults`).
const ADMIN_PORT: u16 = 5001;
const SERVER_PORT: u16 = 5000;

/// The flags of a command that asks an admin listener.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AdminFlags {
    /// The admin listener of the running roadstead, such as 127.0.0.1:5001, `https://mirror.example:5001` or
    /// `unix:///run/roadstead/admin.sock` [env: `ROADSTEAD_ADMIN`] [default: the configuration's `server.admin_socket`,
    /// then `server.admin_listen`]
    #[arg(long, value_name = "URL|HOST:PORT", value_parser = admin_url, help_heading = "Server")]
    pub admin: Option<Url>,
    /// CA certificates (PEM) to verify the admin listener's certificate, besides the system's [env: `ROADSTEAD_ADMIN_CA`]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub admin_ca: Option<PathBuf>,
    /// Certificate (PEM) to show to the admin listener [env: `ROADSTEAD_ADMIN_CERT`]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub admin_cert: Option<PathBuf>,
    /// Its private key (PEM) [env: `ROADSTEAD_ADMIN_KEY`]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub admin_key: Option<PathBuf>,
    /// The configuration file, where no server is named
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub config: Option<PathBuf>,
}

/// The flags of a command that pulls from the client listener.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServerFlags {
    /// The running roadstead, such as 127.0.0.1:5000 [env: `ROADSTEAD_SERVER`] [default: the configuration's
    /// server.listen]
    #[arg(long, value_name = "URL|HOST:PORT", value_parser = server_url, help_heading = "Server")]
    pub server: Option<Url>,
    /// CA certificates (PEM) to verify the server's certificate, besides the system's
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub ca_file: Option<PathBuf>,
    /// The configuration file, where no server is named
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub config: Option<PathBuf>,
}

/// The addresses of a server's listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listeners {
    listen: SocketAddr,
    admin_listen: SocketAddr,
    admin_socket: Option<PathBuf>,
    tls: bool,
    admin_tls: bool,
    /// The certificate of the admin listener, if the whole configuration could be read.
    admin_certificate: Option<PathBuf>,
}

impl AdminFlags {
    /// The admin listener that a flag or, without `--config`, the variable names.
    ///
    /// # Errors
    /// One line: the variable makes no sense.
    pub(in crate::commands) fn named(&self) -> Result<Option<AdminServer>, String> {
        let url = named(
            self.admin.as_ref(),
            self.config.as_ref(),
            ADMIN_VARIABLE,
            admin_url,
        )?;
        url.map(|url| {
            let trust = self.trust()?;
            let socket = None;
            Ok(AdminServer { url, socket, trust })
        })
        .transpose()
    }

    /// The admin listener.
    ///
    /// # Errors
    /// One line: a variable makes no sense, or the configuration does not say where the server is.
    pub fn server(&self) -> Result<AdminServer, String> {
        match self.named()? {
            Some(server) => Ok(server),
            None => self.configured(&configured(self.config.as_ref(), Faults::Elsewhere)?.0),
        }
    }

    /// The admin listener that a flag or the variable names, or else that of this configuration.
    ///
    /// # Errors
    /// One line.
    pub(in crate::commands) fn server_of(&self, config: &Config) -> Result<AdminServer, String> {
        match self.named()? {
            Some(server) => Ok(server),
            None => self.configured(&Listeners::of(config)),
        }
    }

    /// The admin listener of a configuration.
    ///
    /// # Errors
    /// One line.
    pub(super) fn configured(&self, listeners: &Listeners) -> Result<AdminServer, String> {
        let trust = AdminTrust {
            own: listeners.admin_certificate.clone(),
            ..self.trust()?
        };
        let server = listeners.admin()?;
        Ok(AdminServer { trust, ..server })
    }

    /// The certificates that flags and variables name.
    fn trust(&self) -> Result<AdminTrust, String> {
        let file = |flag: &Option<PathBuf>, variable: &str| {
            let set = || std::env::var_os(variable).filter(|value| !value.is_empty());
            flag.clone().or_else(|| set().map(PathBuf::from))
        };
        let cert = file(&self.admin_cert, "ROADSTEAD_ADMIN_CERT");
        let key = file(&self.admin_key, "ROADSTEAD_ADMIN_KEY");
        let certificate = match (cert, key) {
            (Some(cert), Some(key)) => Some(ClientCertificate { cert, key }),
            (None, None) => None,
            (Some(_), None) => return Err("--admin-cert needs --admin-key".to_owned()),
            (None, Some(_)) => return Err("--admin-key needs --admin-cert".to_owned()),
        };
        Ok(AdminTrust {
            ca_file: file(&self.admin_ca, "ROADSTEAD_ADMIN_CA"),
            certificate,
            own: None,
        })
    }
}

impl ServerFlags {
    /// The URL of the client listener.
    ///
    /// # Errors
    /// One line: a variable makes no sense, or the configuration does not say where the server is.
    pub fn url(&self) -> Result<Url, String> {
        if let Some(url) = named_server(self.server.as_ref(), self.config.as_ref())? {
            return Ok(url);
        }
        configured(self.config.as_ref(), Faults::Elsewhere)?
            .0
            .server()
    }
}

/// The client listener that a flag or, without `--config`, the variable names.
///
/// # Errors
/// One line: the variable makes no sense.
pub(in crate::commands) fn named_server(
    flag: Option<&Url>,
    config: Option<&PathBuf>,
) -> Result<Option<Url>, String> {
    named(flag, config, SERVER_VARIABLE, server_url)
}

fn named(
    flag: Option<&Url>,
    config: Option<&PathBuf>,
    variable: &str,
    parse: impl Fn(&str) -> Result<Url, String>,
) -> Result<Option<Url>, String> {
    if flag.is_some() || config.is_some() {
        return Ok(flag.cloned());
    }
    let Some(value) = std::env::var_os(variable).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let value = value.to_string_lossy();
    let url = parse(&value);
    url.map(Some)
        .map_err(|why| format!("{variable}={}: {why}", harmless(&value)))
}

/// Faults in a configuration with which the addresses in it are used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Faults {
    /// Wrong keys and values. Where the file is no TOML, the address might stand in the part that cannot be read, and
    /// another server must not be asked for something instead.
    Elsewhere,
    /// These, and lines that are no TOML: any server may be asked to read its own configuration again.
    Syntax,
}

impl Faults {
    /// The file's keys, as far as they can be read.
    fn table(self, file: &str) -> Option<toml::Table> {
        match self {
            Self::Elsewhere => file.parse().ok(),
            Self::Syntax => {
                let (table, _errors) = DeTable::parse_recoverable(file);
                Some(readable(table.get_ref()))
            }
        }
    }
}

/// The keys whose values can be read.
fn readable(table: &DeTable<'_>) -> toml::Table {
    fn value(written: &DeValue<'_>) -> Option<toml::Value> {
        Some(match written {
            // A value that is missing is read as an empty one.
            DeValue::String(text) if text.is_empty() => return None,
            DeValue::String(text) => toml::Value::String(text.clone().into_owned()),
            DeValue::Boolean(it) => toml::Value::Boolean(*it),
            DeValue::Table(table) => toml::Value::Table(readable(table)),
            DeValue::Array(items) => {
                let items = items.iter().filter_map(|item| value(item.get_ref()));
                toml::Value::Array(items.collect())
            }
            // No address is one of these.
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_) => return None,
        })
    }
    let keys = table.iter().filter_map(|(key, written)| {
        let written = value(written.get_ref())?;
        Some((key.get_ref().clone().into_owned(), written))
    });
    keys.collect()
}

/// The listeners of the configuration, and what the whole of it is.
///
/// # Errors
/// One line for each fault of the configuration, if not even an address can be read from it.
pub(super) fn configured(
    file: Option<&PathBuf>,
    faults: Faults,
) -> Result<(Listeners, Result<Config, String>), String> {
    let overrides = Overrides {
        config: file.cloned(),
        ..Overrides::default()
    };
    let file = Config::read_file(&overrides).map_err(|error| error.to_string())?;
    let error = match file.load(&overrides) {
        Ok(Loaded { config, .. }) => return Ok((Listeners::of(&config), Ok(config))),
        Err(error) => error.to_string(),
    };
    let variable = |name: &str| std::env::var_os(name);
    match faults
        .table(file.text())
        .and_then(|table| listeners(&table, &variable))
    {
        Some(listeners) => {
            tracing::debug!(
                error,
                "the configuration is wrong; its addresses are used all the same"
            );
            Ok((listeners, Err(error)))
        }
        None => Err(error),
    }
}

/// The addresses alone, whatever else stands in the file and the environment; `None`: they cannot be told.
fn listeners(
    table: &toml::Table,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Option<Listeners> {
    let server = match table.get("server") {
        Some(server) => Some(server.as_table()?),
        None => None,
    };
    let first = match server.and_then(|server| server.get("listener")) {
        Some(listeners) => Some(listeners.as_array()?.first()?.as_table()?),
        None => None,
    };
    let address = |table: Option<&toml::Table>, key: &str, name: &str| -> Option<Option<String>> {
        if let Some(value) = variable(name) {
            return Some(Some(value.into_string().ok()?));
        }
        match table.and_then(|table| table.get(key)) {
            Some(value) => Some(Some(value.as_str()?.to_owned())),
            None => Some(None),
        }
    };
    let listen = match first {
        Some(first) => address(Some(first), "address", "ROADSTEAD_SERVER__LISTEN"),
        None => address(server, "listen", "ROADSTEAD_SERVER__LISTEN"),
    };
    let flags = Overrides {
        listen: listen?,
        admin_listen: address(server, "admin_listen", "ROADSTEAD_SERVER__ADMIN_LISTEN")?,
        ..Overrides::default()
    };
    let config = Config::from_layers(&flags, [], &[]).ok()?;
    let has_tls = server.is_some_and(|server| server.contains_key("tls"))
        || variable("ROADSTEAD_SERVER__TLS__CERT").is_some();
    let own_tls = first.and_then(|first| first.get("tls"));
    let tls = own_tls.and_then(toml::Value::as_bool).unwrap_or(has_tls);
    let admin_tls = server.is_some_and(|server| server.contains_key("admin_tls"))
        || variable("ROADSTEAD_SERVER__ADMIN_TLS__CERT").is_some();
    Some(Listeners {
        tls,
        admin_tls,
        ..Listeners::of(&config)
    })
}

impl Listeners {
    fn of(config: &Config) -> Self {
        Self {
            listen: config.server.listen(),
            admin_listen: config.server.admin_listen,
            admin_socket: config.server.admin_socket.clone(),
            tls: config.server.scheme() == "https",
            admin_tls: config.server.admin_tls.is_some(),
            admin_certificate: (config.server.admin_tls.as_ref())
                .and_then(|tls| tls.pairs.first().map(|pair| pair.cert.clone())),
        }
    }

    /// The URL at which the operator reaches the server from this machine.
    ///
    /// # Errors
    /// One line.
    pub(super) fn admin(&self) -> Result<AdminServer, String> {
        let scheme = if self.admin_tls { "https" } else { "http" };
        let url = url_of(scheme, self.admin_listen, "server.admin_listen", "--admin")?;
        Ok(AdminServer {
            socket: self.admin_socket.clone(),
            ..AdminServer::at(url)
        })
    }

    /// The URL at which clients reach it from this machine.
    ///
    /// # Errors
    /// One line.
    pub(super) fn server(&self) -> Result<Url, String> {
        let scheme = if self.tls { "https" } else { "http" };
        url_of(scheme, self.listen, "server.listen", "--server")
    }
}

fn url_of(scheme: &str, mut address: SocketAddr, key: &str, flag: &str) -> Result<Url, String> {
    if address.port() == 0 {
        return Err(format!(
            "{key} has port 0, which is another one each time: name the server with {flag}"
        ));
    }
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let url = format!("{scheme}://{address}");
    // A link-local address with its zone is none.
    url.parse()
        .map_err(|error| format!("{url} is no URL ({error}): name the server with {flag}"))
}

/// An admin listener as users write it.
pub(in crate::commands) fn admin_url(text: &str) -> Result<Url, String> {
    let example = "127.0.0.1:5001, https://127.0.0.1:5001 or unix:///run/roadstead/admin.sock";
    if let Some(path) = text.trim().strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        let is_path = path.starts_with('/') && path.len() > 1;
        let url = Url::parse("unix:///").ok().filter(|_| is_path);
        let mut url = url.ok_or_else(|| format!("write it as {example}"))?;
        url.set_path(path);
        return Ok(url);
    }
    let url = url(text, ADMIN_PORT, &["http", "https"], example)?;
    match url.path() {
        "/" => Ok(url),
        _ => Err(format!("write it as {example}")),
    }
}

/// A client listener as users write it.
pub(in crate::commands) fn server_url(text: &str) -> Result<Url, String> {
    url(
        text,
        SERVER_PORT,
        &["http", "https"],
        "127.0.0.1:5000 or https://mirror.example:5000",
    )
}

fn url(text: &str, port: u16, schemes: &[&str], example: &str) -> Result<Url, String> {
    let refused = || format!("write it as {example}");
    let text = text.trim();
    let url: Url = if text.contains("://") {
        text.parse().map_err(|_| refused())?
    } else {
        let authority = text.trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '?', '#', '@']) {
            return Err(refused());
        }
        let bare_v6 = authority.parse::<Ipv6Addr>().is_ok();
        let authority = if bare_v6 {
            format!("[{authority}]")
        } else {
            authority.to_owned()
        };
        let mut url: Url = format!("http://{authority}")
            .parse()
            .map_err(|_| refused())?;
        // A URL of HTTP without a port means 80, an address without one the default of roadstead.
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, end)| !end.contains(']'));
        if !has_port {
            url.set_port(Some(port)).map_err(|()| refused())?;
        }
        url
    };
    let is_plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !schemes.contains(&url.scheme()) || url.host_str().is_none() || !is_plain {
        return Err(refused());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_urls_or_host_and_port() {
        for (text, expected) in [
            ("127.0.0.1:5001", "http://127.0.0.1:5001/"),
            ("mirror", "http://mirror:5001/"),
            ("mirror:80", "http://mirror/"),
            ("localhost:6001/", "http://localhost:6001/"),
            ("[::1]:7", "http://[::1]:7/"),
            ("::1", "http://[::1]:5001/"),
            ("http://mirror:9", "http://mirror:9/"),
            ("http://mirror", "http://mirror/"),
            ("https://mirror:9", "https://mirror:9/"),
            ("unix:///run/a b/admin.sock", "unix:///run/a%20b/admin.sock"),
            ("unix:/run/admin.sock", "unix:///run/admin.sock"),
        ] {
            assert_eq!(
                admin_url(text).map(String::from),
                Ok(expected.to_owned()),
                "{text}"
            );
        }
        for text in [
            "",
            "https://u:p@mirror",
            "unix:",
            "unix:///",
            "unix:admin.sock",
            "http://u:p@mirror",
            "a/b",
            "u@mirror",
            "ftp://x",
            "a:99999",
            "http://mirror/?a=1",
            "http://mirror/#b",
            "http://mirror/api",
        ] {
            let why = admin_url(text).unwrap_err();
            assert!(why.contains("127.0.0.1:5001"), "{text}: {why}");
        }
        assert_eq!(
            server_url("m").map(String::from),
            Ok("http://m:5000/".to_owned())
        );
        assert!(server_url("https://m/?a=1").is_err());
        assert_eq!(
            server_url("https://m/below").map(String::from),
            Ok("https://m/below".to_owned())
        );
        assert_eq!(
            server_url("https://m").map(String::from),
            Ok("https://m/".to_owned())
        );
    }

    fn read(file: &str, variable: &dyn Fn(&str) -> Option<OsString>) -> Option<Listeners> {
        listeners(&Faults::Elsewhere.table(file)?, variable)
    }

    #[test]
    fn any_server_may_be_asked_to_read_a_file_that_is_no_toml() {
        let text = "[server]\nadmin_listen = \":7001\"\nlisten = \n[cache\ndir = 'x\n";
        let found = listeners(&Faults::Syntax.table(text).unwrap(), &|_| None).unwrap();
        assert_eq!(
            found.admin().unwrap().url.as_str(),
            "http://127.0.0.1:7001/"
        );
    }

    #[test]
    fn addresses_are_read_from_a_configuration_with_faults_elsewhere() {
        let none = |_: &str| None;
        let found = read(
            "[server]\nlisten = \"0.0.0.0:7000\"\nadmin_listen = \":7001\"\nlisten_adress = 1\n[server.tls]\n",
            &none,
        );
        let found = found.unwrap();
        assert_eq!(
            found.admin().unwrap().url.as_str(),
            "http://127.0.0.1:7001/"
        );
        assert_eq!(found.server().unwrap().as_str(), "https://127.0.0.1:7000/");
        let found = read("[cache]\nmax_sise = 1\n", &none).unwrap();
        assert_eq!(
            found.admin().unwrap().url.as_str(),
            "http://127.0.0.1:5001/"
        );
        let set = |name: &str| {
            (name == "ROADSTEAD_SERVER__ADMIN_LISTEN").then(|| OsString::from("127.0.0.1:9"))
        };
        let found = read("[cache]\n", &set).unwrap();
        assert_eq!(found.admin().unwrap().url.as_str(), "http://127.0.0.1:9/");
        let several = "[server]\nlisten_adress = 1\n[server.tls]\n[server.admin_tls]\n[[server.listener]]\naddress = \":7000\"\ntls = false\n";
        let found = read(several, &none).unwrap();
        assert_eq!(
            found.admin().unwrap().url.as_str(),
            "https://127.0.0.1:5001/"
        );
        assert_eq!(found.server().unwrap().as_str(), "http://127.0.0.1:7000/");
        // Here the address cannot be told: another server must not be asked instead.
        for text in [
            "[server",
            "server = 1",
            "[server]\nadmin_listen = 5001",
            "[server]\nadmin_listen = \"x\"",
            "[[server.listener]]\nname = 1\naddress = 1",
            "[server]\nlistener = []",
        ] {
            assert_eq!(read(text, &none), None, "{text}");
        }
        let zero = read("[server]\nadmin_listen = \"127.0.0.1:0\"", &none).unwrap();
        assert!(zero.admin().unwrap_err().contains("--admin"));
    }
}
