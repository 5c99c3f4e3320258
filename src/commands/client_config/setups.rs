//! The files of all clients, as the admin listener shows them.

use clap::ValueEnum as _;

use super::client::Client;
use super::mirror::Mirror;
use super::plan::plan;
use crate::commands::target::server_url;
use crate::config::Config;
use crate::server::{ClientFile, ClientSetup};

/// The directory of the user of Docker Desktop: who looks at a page is on another machine.
const HOME: &str = "~";

/// The files of each client, for the mirror at an address or at that of its listener.
///
/// # Errors
/// One line: the address cannot be used, or none is known.
pub(in crate::commands) fn setups(
    config: &Config,
    server: Option<&str>,
) -> Result<Vec<ClientSetup>, String> {
    let server = server.map(server_url).transpose()?;
    let clients = Client::value_variants().iter();
    let setup = |client: &Client| {
        let mirror = Mirror::of(config, server.clone(), client.has_dockerd())?;
        let plan = plan(*client, &mirror, HOME);
        let value = client.to_possible_value();
        let value = value.as_ref();
        let files = plan.pieces.into_iter().map(|piece| ClientFile {
            content: piece.form.fresh(),
            path: piece.path,
            restart: piece.restart.to_owned(),
            note: piece.note.to_owned(),
        });
        let help = value.and_then(clap::builder::PossibleValue::get_help);
        Ok(ClientSetup {
            client: value.map_or_else(String::new, |it| it.get_name().to_owned()),
            title: help.map_or_else(String::new, |it| it.to_string().replace('`', "")),
            files: files.collect(),
            notes: plan.notes,
        })
    };
    clients.map(setup).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    #[test]
    fn each_client_has_files() {
        let config = Config::from_layers(&Overrides::default(), [], &[]).unwrap();
        let all = setups(&config, Some("https://mirror.example:5000")).unwrap();
        assert_eq!(all.len(), Client::value_variants().len());
        for setup in &all {
            assert!(!setup.client.is_empty() && !setup.title.is_empty());
            assert!(!setup.files.is_empty(), "{}", setup.client);
            let is_named = |it: &ClientFile| it.content.contains("mirror.example:5000");
            assert!(setup.files.iter().any(is_named), "{}", setup.client);
        }
        for bad in ["ftp://mirror", "https://mirror/path", "a b", "<script>"] {
            assert!(setups(&config, Some(bad)).is_err(), "{bad}");
        }
        assert!(setups(&config, None).is_ok());
    }
}
