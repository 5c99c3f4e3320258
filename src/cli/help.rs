//! The texts about the commands: groups, examples, environment, exit codes; as help, completions, manual pages and
//! the reference.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use clap::Command;

use crate::commands::output;
use crate::commands::{EXIT_DONE, EXIT_FAILED, fail};

/// The commands by what they are for. Each stands in one group.
pub(super) const GROUPS: &[(&str, &[&str])] = &[
    (
        "Run the mirror",
        &["serve", "reload", "check", "config", "state", "ca"],
    ),
    ("Set up clients", &["client-config"]),
    (
        "Look inside",
        &["doctor", "status", "health", "ls", "du", "inspect"],
    ),
    (
        "Change the cache",
        &["warm", "refresh", "rm", "gc", "pin", "unpin", "verify"],
    ),
    (
        "Hosted repositories",
        &["ns", "repo", "tag", "events", "adopt", "backup", "restore"],
    ),
    ("Several nodes", &["cluster"]),
    ("Air-gapped sites", &["export", "import"]),
    (
        "Access",
        &["access", "user", "token", "credential-provider"],
    ),
    ("Measure", &["bench"]),
    ("This program", &["version", "completions", "man", "help"]),
];

/// Examples: a command, and lines under it.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
    (
        "serve",
        "  roadstead serve --listen 0.0.0.0:5000 --cache-dir /var/cache/roadstead --cache-size 200GB
  roadstead serve --config /etc/roadstead/config.toml
  roadstead serve --upstream docker.io=https://registry-1.docker.io --log-level debug",
    ),
    (
        "reload",
        "  roadstead reload
  roadstead check && roadstead reload --admin mirror:5001",
    ),
    (
        "check",
        "  roadstead check --config config.toml
  roadstead check --json | jq .cache",
    ),
    (
        "config",
        "  roadstead config schema > roadstead.schema.json",
    ),
    (
        "state",
        "  roadstead state backup -o roadstead-state.backup --state-dir /var/lib/roadstead",
    ),
    (
        "backup",
        "  roadstead backup -o /backup/roadstead
  roadstead backup -o roadstead-2026-12-01.tar --state-dir /var/lib/roadstead",
    ),
    (
        "restore",
        "  roadstead restore /backup/roadstead --state-dir /var/lib/roadstead
  roadstead restore /backup/roadstead --dry-run
  roadstead restore --tags-at 2026-12-01T13:00:00Z --dry-run",
    ),
    (
        "ca",
        "  roadstead ca init --config /etc/roadstead/config.toml
  roadstead ca init --out /etc/roadstead/ca
  roadstead ca show",
    ),
    (
        "client-config",
        "  roadstead client-config docker --server https://mirror.example:5000
  roadstead client-config containerd --server http://mirror.example:5000 --diff
  roadstead client-config containerd --server http://mirror.example:5000 --write
  roadstead client-config podman --server https://mirror.example:5000 --ca ca.crt --write
  roadstead client-config containerd --server http://10.0.0.5:5000 --write --root /host --every 5m
  roadstead client-config docker --undo",
    ),
    (
        "doctor",
        "  roadstead doctor --config /etc/roadstead/config.toml
  roadstead doctor --json | jq -r '.checks[] | select(.status == \"fail\") | .id'
  roadstead doctor --from-client --server http://mirror.example:5000
  roadstead doctor --from-client --server http://mirror.example:5000 --client docker --image alpine:3.20",
    ),
    (
        "warm",
        "  roadstead warm alpine ghcr.io/org/app:1
  kubectl get pods -A -o yaml | roadstead warm -f - --server mirror:5000
  roadstead warm -f compose.yaml --platform linux/amd64,linux/arm64",
    ),
    (
        "verify",
        "  roadstead verify
  roadstead verify --repair ghcr.io/org/app:1",
    ),
    (
        "export",
        "  roadstead export nginx:1.27 ghcr.io/org/app:1 -o images.tar.zst
  roadstead export alpine -o - | ssh inside roadstead import -
  roadstead export alpine -o layout/",
    ),
    (
        "adopt",
        "  roadstead adopt --from registry:2 http://registry.internal:5000 --dry-run
  roadstead adopt --from registry:2 /var/lib/registry --into team
  roadstead adopt --from https://old.example --docker-config ~/.docker/config.json --repository 'team/*'",
    ),
    (
        "import",
        "  roadstead import images.tar.zst --pin
  roadstead import app.tar --push team/app:2=team/app:1
  zcat images.tar.gz | roadstead import - --admin 127.0.0.1:5001
  roadstead import tool.tar quay.io/org/tool:2",
    ),
    (
        "bench",
        "  roadstead bench http://127.0.0.1:5000 alpine -n 50
  roadstead bench http://127.0.0.1:5000 alpine --vs https://registry-1.docker.io",
    ),
    (
        "status",
        "  roadstead status
  roadstead status --json --admin mirror:5001 | jq .traffic.hit_ratio",
    ),
    (
        "health",
        "  roadstead health || systemctl restart roadstead    # a drain counts as unhealthy, too",
    ),
    (
        "ls",
        "  roadstead ls
  roadstead ls ghcr.io/org
  roadstead ls --json | jq -r .image",
    ),
    ("du", "  roadstead du docker.io ghcr.io"),
    (
        "inspect",
        "  roadstead inspect nginx:1.27
  roadstead inspect 0123456789ab        # a digest as `roadstead ls` prints it",
    ),
    (
        "rm",
        "  roadstead rm nginx:1.27
  roadstead rm --all ghcr.io/org/app
  roadstead rm 'ghcr.io/org/*:pr-*' --unused-for 30d --dry-run
  roadstead rm --upstream quay.io",
    ),
    (
        "access",
        "  roadstead access test --user alice pull mirror/docker.io/library/alpine
  roadstead access explain --anonymous pull mirror/ghcr.io/org/app --tag v1
  roadstead access who-can push repository/team/app",
    ),
    (
        "credential-provider",
        "  roadstead credential-provider",
    ),
    (
        "user",
        "  pass show mirror/alice | roadstead user add alice --group dev --password-stdin
  roadstead user ls",
    ),
    (
        "token",
        "  roadstead token create --robot ci --policy read-only --ttl 90d
  roadstead token temp --user alice --ttl 1h
  roadstead token revoke --user alice",
    ),
    (
        "ns",
        "  roadstead ns create team --visibility public --quota 100GB
  roadstead ns ls
  roadstead ns set team --quota none
  roadstead ns rm team --content
  roadstead ns restore team
  roadstead ns expire --dry-run",
    ),
    (
        "repo",
        "  roadstead repo rm team/app
  roadstead repo deleted
  roadstead repo restore team/app",
    ),
    (
        "tag",
        "  roadstead tag history team/app:v1
  roadstead tag restore team/app:v1",
    ),
    (
        "events",
        "  roadstead events --since 2h
  roadstead events --follow --repository 'team/*' --json | jq .tag",
    ),
    (
        "cluster",
        "  roadstead cluster status
  roadstead cluster drain roadstead-2
  roadstead cluster drain --undo --admin 10.0.0.7:5001",
    ),
    ("gc", "  roadstead gc --dry-run"),
    (
        "refresh",
        "  roadstead refresh nginx:latest
  roadstead refresh --json ghcr.io/org/app:main | jq .moved",
    ),
    ("pin", "  roadstead pin registry.k8s.io/pause:3.9"),
    ("unpin", "  roadstead unpin registry.k8s.io/pause:3.9"),
    (
        "completions",
        "  roadstead completions bash > /usr/share/bash-completion/completions/roadstead
  roadstead completions zsh > /usr/share/zsh/site-functions/_roadstead
  roadstead completions fish > ~/.config/fish/completions/roadstead.fish",
    ),
    (
        "man",
        "  roadstead man | man -l -
  roadstead man /usr/share/man/man1",
    ),
];

const ENVIRONMENT: &str = "\
Environment:
  ROADSTEAD_ADMIN      The admin listener, as --admin
  ROADSTEAD_ADMIN_CA, ROADSTEAD_ADMIN_CERT, ROADSTEAD_ADMIN_KEY
                       As --admin-ca, --admin-cert and --admin-key
  ROADSTEAD_SERVER     The client listener, as --server
  ROADSTEAD_TOKEN      The token for the admin API and the client listener, where they ask for one
  ROADSTEAD_LOG        Log level, as --log-level
  ROADSTEAD_…__…       A key of the configuration: ROADSTEAD_CACHE__MAX_SIZE is cache.max_size
  NO_COLOR             Set and not empty: no colours
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY
                       The way to upstreams";

const EXIT_CODES: &str = "\
Exit codes:
  0    Done
  1    Something failed, is missing or is wrong; serve could not start
  2    The command line or the configuration is wrong
  130, 143
       A second signal cut the drain of serve short
  141  The reader of standard output has gone";

/// The command line with everything that is said about it.
pub(super) fn dress(command: Command) -> Command {
    let mut groups = String::new();
    for (title, names) in GROUPS {
        // Writing to a String cannot fail.
        writeln!(groups, "{title}:").ok();
        for name in *names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map_or_else(
                || "Print help for a command".to_owned(),
                ToString::to_string,
            );
            writeln!(groups, "  {name:<12} {about}").ok();
        }
        groups.push('\n');
    }
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}Global options:\n{{options}}\n\n{{after-help}}"
    );
    let command = command
        .help_template(template)
        .after_help(format!(
            "{ENVIRONMENT}\n\n{EXIT_CODES}\n\nDocumentation of a command: roadstead COMMAND --help"
        ))
        .arg_required_else_help(false);
    command.mut_subcommands(|it| {
        let examples = EXAMPLES.iter().find(|(name, _)| *name == it.get_name());
        match examples {
            Some((_, examples)) => it.after_help(format!("Examples:\n{examples}")),
            None => it,
        }
    })
}

/// Prints the completions of a shell.
pub(super) fn completions(shell: clap_complete::Shell) {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "roadstead", &mut text);
    output::write(&String::from_utf8_lossy(&text));
}

/// Prints the manual page, or writes all of them into a directory.
pub(super) fn manual(dir: Option<&Path>) -> Result<u8, String> {
    let Some(dir) = dir else {
        let page = page(&super::command()).map_err(|error| error.to_string())?;
        output::write(&String::from_utf8_lossy(&page));
        return Ok(EXIT_DONE);
    };
    let written = clap_mangen::generate_to(super::command(), dir);
    Ok(match written {
        Ok(()) => EXIT_DONE,
        Err(error) => fail(EXIT_FAILED, &format!("{}: {error}", dir.display())),
    })
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        super::super::command().debug_assert();
    }

    #[test]
    fn every_command_is_in_one_group_and_has_an_example() {
        let mut command = super::super::command();
        command.build();
        let there = command.get_subcommands().filter(|it| !it.is_hide_set());
        let there: BTreeSet<&str> = there.map(Command::get_name).collect();
        let grouped: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        assert_eq!(grouped.len(), there.len());
        assert_eq!(grouped.into_iter().collect::<BTreeSet<_>>(), there);
        let without: Vec<&&str> = there
            .iter()
            .filter(|name| !matches!(**name, "version" | "help"))
            .filter(|name| !EXAMPLES.iter().any(|(known, _)| known == *name))
            .collect();
        assert!(without.is_empty(), "{without:?}");
    }

    #[test]
    fn examples_are_command_lines_that_parse() {
        for (name, examples) in EXAMPLES {
            for line in examples.lines() {
                let line = line
                    .split(['|', '>', '#', '&'])
                    .find(|part| part.contains("roadstead "));
                let line = line.unwrap_or_default().trim().replace('\'', "");
                let from = line.find("roadstead ").unwrap_or_default();
                let line = line[from..].trim();
                let parsed = super::super::command().try_get_matches_from(line.split_whitespace());
                assert!(parsed.is_ok(), "{name}: {line}: {parsed:?}");
            }
        }
    }
}
