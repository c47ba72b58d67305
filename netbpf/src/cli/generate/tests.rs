use std::{
    io::Write,
    process::{Command as Process, Stdio},
};

use super::*;

/// Every command that the help lists, by its words, with its definition.
fn commands() -> Vec<(String, Command)> {
    fn add(words: &str, command: &Command, all: &mut Vec<(String, Command)>) {
        all.push((words.to_owned(), command.clone()));
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            add(&format!("{words} {}", sub.get_name()), sub, all);
        }
    }
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut all = Vec::new();
    add("netbpf", &root, &mut all);
    all
}

/// Without the marks of roff.
fn text_of(page: &str) -> String {
    let plain = page
        .replace("\\-", "-")
        .replace("\\fB", "")
        .replace("\\fI", "")
        .replace("\\fR", "");
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Not captured by the harness, so that it is counted.
fn skipped(test: &str, program: &str) {
    let _ = writeln!(
        std::io::stderr(),
        "skipped: {test}: {program} is not installed"
    );
}

fn pages() -> Vec<(String, String)> {
    man::pages()
}

#[test]
fn every_command_has_a_page_with_all_its_flags() {
    let pages = pages();
    assert_eq!(pages.len(), commands().len());
    for (words, command) in commands() {
        let name = words.replace(' ', "-");
        let (_, page) = pages.iter().find(|(page, _)| *page == name).unwrap();
        let text = text_of(page);
        for arg in command.get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            let flag = format!("--{long}");
            assert_eq!(
                text.split([' ', ',', '[', ']', '='])
                    .any(|word| word == flag),
                !arg.is_hide_set(),
                "{flag} in {name}(1)"
            );
        }
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "EXIT STATUS"] {
            let heading = section.replace(' ', r"\ ");
            assert!(
                page.contains(&format!(".SH {section}\n"))
                    || page.contains(&format!(".SH \"{section}\"\n"))
                    || page.contains(&format!(".SH {heading}\n")),
                "{name}(1) has no {section}:\n{page}"
            );
        }
    }
}

#[test]
fn the_first_page_has_codes_files_and_variables() {
    let (name, page) = pages().swap_remove(0);
    assert_eq!(name, "netbpf");
    let text = text_of(&page);
    for code in crate::error::Code::ALL {
        assert!(text.contains(code.as_str()), "{}", code.as_str());
    }
    for wanted in [
        "NETBPF_SOCKET",
        "NO_COLOR",
        "/etc/netbpf/netbpf.toml",
        "netbpf-network(1)",
    ] {
        assert!(text.contains(wanted), "{wanted}");
    }
}

#[test]
fn the_daemons_page_has_a_variable_for_each_flag() {
    let pages = pages();
    let (_, page) = pages
        .iter()
        .find(|(name, _)| name == "netbpf-daemon")
        .unwrap();
    let text = text_of(page);
    for wanted in [
        "NETBPF_STATE_DIR",
        "NETBPF_SOCKET",
        "NETBPF_POOL",
        "NETBPF_CONFIG",
        "NETBPF_ETCD_CACERT",
    ] {
        assert!(text.contains(wanted), "{wanted}");
    }
    assert!(!text.contains("NETBPF_FLANNEL"), "of a later version");
}

#[test]
fn pages_are_formatted_without_warnings() {
    for (name, page) in pages() {
        let child = Process::new("groff")
            .args(["-man", "-ww", "-z", "-Tutf8", "-Kutf8"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            return skipped("pages_are_formatted_without_warnings", "groff");
        };
        child
            .stdin
            .take()
            .unwrap()
            .write_all(page.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && warnings.is_empty(),
            "{name}: {warnings}\n{page}"
        );
    }
}

#[test]
fn completions_offer_what_is_there_and_nothing_else() {
    for shell in Shell::value_variants() {
        let script = completions(*shell);
        for there in [
            "attach",
            "no-icc",
            "network",
            "teardown",
            "publish-all",
            "oci-hook",
            "overlay",
            "drain",
        ] {
            assert!(script.contains(there), "{shell:?}: {there}");
        }
        for later in ["flannel", "ingress-rate", "generate"] {
            assert!(!script.contains(later), "{shell:?}: {later}");
        }
    }
}

/// Those that are installed; of the others their makers know best.
#[test]
fn shells_read_their_completions() {
    for (shell, name) in [
        (Shell::Bash, "bash"),
        (Shell::Zsh, "zsh"),
        (Shell::Fish, "fish"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(file_name(shell));
        std::fs::write(&path, completions(shell)).unwrap();
        if let Ok(output) = Process::new(name).arg("-n").arg(&path).output() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() && complaint.is_empty(),
                "{name}: {complaint}"
            );
        }
    }
}

#[test]
fn bash_completes_commands_and_flags() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("netbpf.bash");
    std::fs::write(&path, completions(Shell::Bash)).unwrap();
    let complete = |words: &str| {
        let line = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _netbpf netbpf \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             echo \"${{COMPREPLY[@]}}\"",
            path.display()
        );
        Process::new("bash").args(["-c", &line]).output()
    };
    let Ok(output) = complete("netbpf net") else {
        return skipped("bash_completes_commands_and_flags", "bash");
    };
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "network",
        "{output:?}"
    );
    let output = complete("netbpf network create --no-m").unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "--no-masquerade",
        "{output:?}"
    );
}

#[test]
fn every_command_that_prints_has_a_schema() {
    for (words, command) in commands() {
        let words = words.strip_prefix("netbpf").unwrap().trim();
        let is_one = command.get_subcommands().all(|sub| sub.is_hide_set());
        // A daemon and a script are no answers, and engines have forms of their own.
        let others = ["daemon", "completions", "cni", "oci-hook"];
        if words.is_empty() || !is_one || others.contains(&words) {
            continue;
        }
        let mut answers = schemas::ANSWERS.iter();
        assert!(
            answers.any(|(of, _)| *of == words),
            "netbpf {words} has none"
        );
    }
    for (name, schema) in schemas::all() {
        assert!(schema["title"].as_str().unwrap().contains("-j"), "{name}");
        assert!(
            schema["$schema"].as_str().unwrap().contains("2020-12"),
            "{name}"
        );
    }
}
