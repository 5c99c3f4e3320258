//! docs/reference/cli.md: written from the command line itself, so that it cannot say anything else.

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::help::{EXAMPLES, GROUPS};

/// The page that describes a command's task.
const PAGES: &[(&str, &str, &str)] = &[
    ("serve", "Operations", "../operations.md"),
    ("check", "Configuration", "../configuration.md"),
    ("config", "Editors", "../configuration.md#editors"),
    ("state", "State directory", "../state.md"),
    ("ca", "Transparent mode", "../clients/transparent.md"),
    (
        "client-config",
        "Client configuration",
        "../clients/client-config.md",
    ),
    ("doctor", "doctor", "../doctor.md"),
    ("status", "status", "../admin.md#status"),
    ("health", "health", "../admin.md#health"),
    ("ls", "ls", "../admin.md#ls"),
    ("du", "du", "../admin.md#du"),
    ("inspect", "inspect", "../admin.md#inspect"),
    ("warm", "Warming", "../warm.md"),
    ("refresh", "refresh", "../admin.md#refresh"),
    ("rm", "rm, gc", "../admin.md#rm-gc"),
    ("gc", "rm, gc", "../admin.md#rm-gc"),
    ("pin", "Pins", "../admin.md#pins"),
    ("unpin", "Pins", "../admin.md#pins"),
    (
        "verify",
        "Scrub and verify",
        "../operations.md#scrub-and-verify",
    ),
    ("reload", "Reload", "../configuration.md#reload"),
    ("export", "Air-gapped sites", "../airgap.md#export"),
    ("import", "Air-gapped sites", "../airgap.md#import"),
    ("access", "Access", "../access.md#who-may-pull-what"),
    ("user", "Users", "../access.md#one-team-one-password-file"),
    ("ns", "Hosted repositories", "../hosted.md#namespaces"),
    (
        "repo",
        "Hosted repositories",
        "../hosted.md#delete-and-restore",
    ),
    (
        "tag",
        "Hosted repositories",
        "../hosted.md#delete-and-restore",
    ),
    ("events", "Hosted repositories", "../hosted.md#events"),
    (
        "adopt",
        "From registry:2 (with pushed images)",
        "../migrate/registry.md",
    ),
    ("backup", "Backup", "../hosted.md#backup-and-restore"),
    ("restore", "Restore", "../hosted.md#backup-and-restore"),
    (
        "cluster",
        "Several nodes",
        "../cluster.md#see-the-state-of-the-cluster",
    ),
    ("token", "Tokens", "../access.md#ci-robots-and-tokens"),
    (
        "credential-provider",
        "Jobs and pods",
        "../access.md#jobs-and-pods-without-a-secret",
    ),
    ("bench", "Benchmarking your mirror", "../bench.md"),
];

const INTRODUCTION: &str = "\
<!-- Written from the program: UPDATE_DOCS=1 cargo test --test it cli::the_reference. -->

# Command line

`roadstead COMMAND --help` prints what stands here. Flags override the environment, which overrides the file:
[Layers](../configuration.md#layers). An operator's commands against a server need an address and nothing else, neither its
configuration nor its secrets: `--admin` or `ROADSTEAD_ADMIN` for those that ask the admin listener, `--server` or
`ROADSTEAD_SERVER` for those that pull, each as a URL or as `HOST:PORT`. Without them the address is read from the
configuration file, where an error in another key does not matter. `--config` beats the two variables.
";

const EXIT_CODES: &str = "\
## Exit codes

| code | meaning |
| --- | --- |
| 0 | Done. `serve`: stopped as asked. |
| 1 | `serve` cannot start (port in use, directory not writable, another roadstead in it). `warm`, `export` or `import` left something missing. A pull of `bench` failed. `verify` found something that stays wrong. An operator's command could not be done. `health`: no answer within 4 s, or the mirror drains; `degraded` is 0. `access test` and `explain`: denied; `who-can`: nobody. `doctor`: a check failed. `client-config`: a file could not be written, taken back or merged; with `--diff`: there are differences. The answer could not be written (a full disk). |
| 2 | The configuration or the command line is wrong. |
| 130, 143 | A second signal cut the drain of `serve` short (128 and the signal's number). |
| 141 | The reader of standard output has gone (`roadstead ls \\| head -1`), as a shell reports it of other programs. |

## Environment

| variable | meaning |
| --- | --- |
| `ROADSTEAD_ADMIN` | The admin listener, as `--admin` |
| `ROADSTEAD_ADMIN_CA`, `ROADSTEAD_ADMIN_CERT`, `ROADSTEAD_ADMIN_KEY` | As `--admin-ca`, `--admin-cert` and `--admin-key` |
| `ROADSTEAD_SERVER` | The client listener, as `--server` |
| `ROADSTEAD_TOKEN` | The token for the admin API and the client listener, where they ask for one: [Access](../access.md) |
| `ROADSTEAD_LOG` | Log level, as `--log-level`: [Logs](../configuration.md#logs) |
| `ROADSTEAD_…__…` | Configuration keys: [Environment](../configuration.md#environment) |
| `NO_COLOR` | Set and not empty: no colours |
| `TMPDIR` | Where `import` unpacks an archive that is compressed or comes through a pipe |
| `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY` | Outbound proxies: [Proxies](../configuration.md#proxies) |

Cloud logins read the usual variables of their vendors: [Logins](../configuration.md#logins).

## Completions and manual pages

`roadstead completions SHELL` and `roadstead man DIR` write them; a package installs what they write.
";

/// The page.
#[must_use]
pub fn reference() -> String {
    let mut root = super::command();
    root.build();
    let mut page = INTRODUCTION.to_owned();
    page.push_str("\n## Commands\n");
    for (title, names) in GROUPS {
        // Writing to a String cannot fail, here and below.
        write!(
            page,
            "\n**{title}**\n\n| command | task | page |\n| --- | --- | --- |\n"
        )
        .ok();
        for name in names.iter().filter(|name| **name != "help") {
            let about = root.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let page_of = PAGES.iter().find(|(command, ..)| command == name);
            let link =
                page_of.map_or_else(String::new, |(_, title, link)| format!("[{title}]({link})"));
            writeln!(page, "| [`{name}`](#{name}) | {about} | {link} |").ok();
        }
    }
    page.push_str("\n## Global options\n\n");
    let globals = root.get_arguments().filter(|arg| arg.is_global_set());
    table(&mut page, globals);
    for name in GROUPS.iter().flat_map(|(_, names)| *names) {
        if let Some(command) = root.find_subcommand(name).filter(|_| *name != "help") {
            section(&mut page, command.clone());
        }
    }
    page.push('\n');
    page.push_str(EXIT_CODES);
    page
}

/// A command, then its own commands.
fn section(page: &mut String, command: Command) {
    let name = command.get_name().to_owned();
    let own: Vec<Command> = command.get_subcommands().cloned().collect();
    arguments(page, &format!("## {name}"), command);
    if let Some((_, examples)) = EXAMPLES.iter().find(|(of, _)| *of == name) {
        page.push('\n');
        for line in examples.lines() {
            writeln!(page, "    {}", line.trim_start()).ok();
        }
    }
    for command in own.into_iter().filter(|it| it.get_name() != "help") {
        arguments(page, &format!("### {name} {}", command.get_name()), command);
    }
}

/// The heading, usage and arguments of a command. One that is part of another says here what it does.
fn arguments(page: &mut String, heading: &str, mut command: Command) {
    let about = command.get_about().map(ToString::to_string);
    let about = about.filter(|_| heading.starts_with("###"));
    let about = about.map_or_else(String::new, |about| format!("{about}.\n\n"));
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let usage: Vec<&str> = usage.split_whitespace().collect();
    write!(page, "\n{heading}\n\n{about}    {}\n", usage.join(" ")).ok();
    let own = |arg: &&Arg| !arg.is_global_set() && arg.get_id() != "help";
    if command.get_arguments().any(|arg| own(&arg)) {
        page.push('\n');
        table(page, command.get_arguments().filter(own));
    }
}

fn table<'a>(page: &mut String, arguments: impl Iterator<Item = &'a Arg>) {
    page.push_str("| argument | meaning |\n| --- | --- |\n");
    for argument in arguments {
        let names = [
            argument.get_short().map(|short| format!("-{short}")),
            argument.get_long().map(|long| format!("--{long}")),
        ];
        let names: Vec<String> = names.into_iter().flatten().collect();
        let takes = argument.get_action().takes_values();
        let values = argument.get_value_names().filter(|_| takes);
        let values = values.map_or_else(String::new, |names| {
            let names: Vec<&str> = names.iter().map(clap::builder::Str::as_str).collect();
            names.join(" ")
        });
        let mut shown = names.join(", ");
        if !shown.is_empty() && !values.is_empty() {
            shown.push(' ');
        }
        shown.push_str(&values);
        let help = argument
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let defaults: Vec<String> = argument
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy().into_owned())
            .collect();
        let default = match defaults.join(", ") {
            defaults if defaults.is_empty() || !takes => String::new(),
            defaults => format!(" [default: {defaults}]"),
        };
        let cell = |text: &str| text.replace('|', "\\|");
        let (shown, meaning) = (cell(&shown), cell(&format!("{help}{default}")));
        writeln!(page, "| `{shown}` | {} |", meaning.replace('<', "&lt;")).ok();
    }
}
