//! The manual: one page for each command that the help lists.

use clap::{Command, CommandFactory};
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, italic, roman},
};

use crate::{
    cli::args::Cli,
    client::DEFAULT_SOCKET,
    config::{self, DEFAULT_FILE},
    error::Code,
    settings::Settings,
};

/// Name and text of each page, `netbpf` first.
pub fn pages() -> Vec<(String, String)> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, &mut pages);
    pages
}

fn add_pages(command: &Command, pages: &mut Vec<(String, String)>) {
    pages.push((name(command), page(command)));
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        add_pages(sub, pages);
    }
}

/// `netbpf-network-create`.
fn name(command: &Command) -> String {
    let name = command.get_display_name();
    name.unwrap_or_else(|| command.get_name()).to_owned()
}

fn is_root(command: &Command) -> bool {
    command.get_name() == "netbpf"
}

fn page(command: &Command) -> String {
    let is_root = is_root(command);
    let man = Man::new(command.clone())
        .source(format!("netbpf {}", env!("CARGO_PKG_VERSION")))
        .manual("netbpf");
    let mut text = Vec::new();
    // Writing to memory cannot fail.
    let mut render = |part: fn(&Man, &mut dyn std::io::Write) -> std::io::Result<()>| {
        let _ = part(&man, &mut text);
    };
    render(|man, to| man.render_title(to));
    render(|man, to| man.render_name_section(to));
    let mut roff = Roff::new();
    // Words with many brackets and dots leave holes in lines that are justified.
    roff.control("ad", ["l"]);
    roff.control("nh", []);
    synopsis(&mut roff, command);
    description(&mut roff, command);
    commands(&mut roff, command);
    text.extend_from_slice(roff.render().as_bytes());
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        let mut options = Vec::new();
        let _ = man.render_options_section(&mut options);
        text.extend(options);
    }

    let mut roff = Roff::new();
    examples(&mut roff, command);
    match command.get_name() {
        "netbpf" => {
            output(&mut roff);
            exit_status(&mut roff);
            errors(&mut roff);
            environment(&mut roff);
            files(&mut roff);
        }
        "daemon" => {
            signals(&mut roff);
            environment_of_the_daemon(&mut roff);
            files(&mut roff);
        }
        _ => {}
    }
    if !is_root {
        exit_status_in_short(&mut roff);
    }
    see_also(&mut roff, command);
    text.extend_from_slice(roff.render().as_bytes());
    String::from_utf8_lossy(&text).into_owned()
}

fn section(roff: &mut Roff, title: &str) {
    roff.control("SH", [title]);
}

fn paragraph(roff: &mut Roff, text: &str) {
    roff.control("PP", []);
    roff.text([roman(text)]);
}

/// A tagged paragraph.
fn entry(roff: &mut Roff, tag: impl Into<Inline>, text: &str) {
    roff.control("TP", []);
    roff.text([tag.into()]);
    roff.text([roman(text)]);
}

fn synopsis(roff: &mut Roff, command: &Command) {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage);
    section(roff, "SYNOPSIS");
    preformatted(roff, usage);
}

/// What the help says, and its notes.
fn description(roff: &mut Roff, command: &Command) {
    section(roff, "DESCRIPTION");
    if is_root(command) {
        return description_of_the_whole(roff);
    }
    let about = command.get_about().map(ToString::to_string);
    roff.text([roman(format!("{}.", about.unwrap_or_default()))]);
    for note in paragraphs_of_help(command) {
        match note.starts_with("  ") {
            _ if note.starts_with(EXAMPLES) => {}
            // As it is written.
            true => {
                roff.control("PP", []);
                preformatted(roff, &note);
            }
            false => paragraph(roff, &note),
        }
    }
}

fn description_of_the_whole(roff: &mut Roff) {
    paragraph(
        roff,
        "netbpf connects containers, which are network namespaces, to networks of this \
         host and to the outside, by eBPF programs alone: there is no bridge device, no \
         rule of iptables or nftables, and the host forwards nothing. A container reaches \
         the others of its network and, masqueraded, the outside; published ports lead \
         from the outside to it.",
    );
    paragraph(
        roff,
        "One program is the daemon, netbpf daemon, and the command line, which is a client \
         of the daemon's HTTP API on a unix socket. Root and the members of the group \
         netbpf may use it. Packets do not depend on the daemon: when it ends they go on, \
         until netbpf teardown removes the datapath.",
    );
}

fn commands(roff: &mut Roff, command: &Command) {
    let visible = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let mut visible = visible.peekable();
    if visible.peek().is_none() {
        return;
    }
    section(roff, "COMMANDS");
    for sub in visible {
        let about = sub.get_about().map(ToString::to_string);
        entry(
            roff,
            bold(format!("{}(1)", name(sub))),
            &about.unwrap_or_default(),
        );
    }
}

/// How the paragraph of the examples begins.
const EXAMPLES: &str = "Examples:\n";

fn paragraphs_of_help(command: &Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string);
    let help = help.unwrap_or_default();
    let parts = help.split("\n\n").filter(|part| !part.trim().is_empty());
    parts.map(str::to_owned).collect()
}

fn examples(roff: &mut Roff, command: &Command) {
    for part in paragraphs_of_help(command) {
        if let Some(examples) = part.strip_prefix(EXAMPLES) {
            section(roff, "EXAMPLES");
            preformatted(roff, examples);
        }
    }
}

fn preformatted(roff: &mut Roff, text: &str) {
    roff.control("nf", []);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}

fn output(roff: &mut Roff) {
    section(roff, "OUTPUT");
    paragraph(
        roff,
        "Text is for people: within a terminal it fits its width. Elsewhere each row is a \
         line, and there is neither colour nor progress.",
    );
    paragraph(
        roff,
        "With -j it is JSON, one line unless in a terminal: listings are arrays, one thing \
         is an object. Names of fields are stable, addresses are text, times RFC 3339, \
         sizes bytes, rates bits per second; each answer has a JSON schema \
         (docs/schemas). With -q it is names alone.",
    );
    paragraph(
        roff,
        "An error is one line on stderr that names the object and the value. With -j it is \
         an object:",
    );
    preformatted(
        roff,
        r#"  {"error":{"code":"not_found","message":"network \"front\" not found"}}"#,
    );
}

fn exit_status(roff: &mut Roff) {
    section(roff, "EXIT STATUS");
    let entries = [
        ("0", "Done."),
        (
            "1",
            "Refused or failed: the line was understood and the daemon says no, for instance \
             to a port spec, a name or a MAC address that makes no sense to it, or what was \
             asked for could not be done. Nothing half-done is left behind.",
        ),
        (
            "2",
            "Wrong usage: the line is not understood. A command or flag is unknown, a value is \
             missing, or it is not of the kind that the flag takes: no address, subnet, \
             number, time or label. The daemon is not asked.",
        ),
        (
            "3",
            "The daemon cannot be reached, or went away before it answered.",
        ),
    ];
    for (status, text) in entries {
        entry(roff, bold(status), text);
    }
}

fn exit_status_in_short(roff: &mut Roff) {
    section(roff, "EXIT STATUS");
    paragraph(
        roff,
        "0 done, 1 refused or failed, 2 wrong usage, 3 the daemon cannot be reached; \
         netbpf(1) has the error codes.",
    );
}

fn errors(roff: &mut Roff) {
    section(roff, "ERRORS");
    paragraph(roff, "The codes of errors are stable:");
    for code in Code::ALL {
        entry(roff, bold(code.as_str()), code.meaning());
    }
}

fn environment(roff: &mut Roff) {
    section(roff, "ENVIRONMENT");
    entry(
        roff,
        bold("NETBPF_SOCKET"),
        "The daemon's socket where --socket does not say it.",
    );
    entry(
        roff,
        bold("NO_COLOR"),
        "Set and not empty: no colour, in a terminal neither.",
    );
    entry(
        roff,
        bold("RUST_LOG"),
        "What is logged on stderr, where neither -v nor -q says it.",
    );
    paragraph(
        roff,
        "Every flag of the daemon is a variable too: netbpf-daemon(1).",
    );
}

fn environment_of_the_daemon(roff: &mut Roff) {
    section(roff, "ENVIRONMENT");
    paragraph(
        roff,
        "Each is the flag of the same name; the items of a list are parted by commas. A \
         variable that is empty counts as none.",
    );
    let mut variables = config::flags();
    variables.sort();
    for flag in variables {
        roff.control("TP", []);
        roff.text([bold(config::variable(&flag))]);
        roff.text([roman("--"), italic(flag.as_str())]);
    }
    entry(
        roff,
        bold("RUST_LOG"),
        "What is logged, in the directives of tracing-subscriber; -v and -q beat it.",
    );
}

fn signals(roff: &mut Roff) {
    section(roff, "SIGNALS");
    entry(
        roff,
        bold("SIGTERM, SIGINT"),
        "Ends the daemon: requests that run are finished, 5 seconds at most, and the \
         datapath stays. A second one does not wait for them.",
    );
    entry(
        roff,
        bold("SIGHUP"),
        "The configuration is read again, as by netbpf reload; the log says what came of it.",
    );
}

fn files(roff: &mut Roff) {
    let settings = Settings::default();
    section(roff, "FILES");
    let path = |path: &std::path::Path| path.display().to_string();
    let entries = [
        (
            DEFAULT_FILE.to_owned(),
            "Configuration of the daemon, TOML.",
        ),
        (DEFAULT_SOCKET.to_owned(), "Socket of the API."),
        (
            path(&settings.state_dir),
            "What survives a boot: the networks.",
        ),
        (
            path(&settings.run_dir),
            "What ends with the boot: the endpoints.",
        ),
        (
            path(&settings.bpffs),
            "Pinned programs and maps, for bpftool to see.",
        ),
    ];
    for (file, text) in entries {
        entry(roff, italic(file), text);
    }
}

/// The page above, and those beside it.
fn see_also(roff: &mut Roff, command: &Command) {
    let own = name(command);
    let mut pages = Vec::new();
    if let Some((above, _)) = own.rsplit_once('-') {
        pages.push(format!("{above}(1)"));
        if above != "netbpf" {
            pages.push("netbpf(1)".into());
        }
    }
    pages.push("ip-netns(8)".into());
    pages.push("bpftool(8)".into());
    section(roff, "SEE ALSO");
    roff.text([roman(pages.join(", "))]);
}
