//! The package's `control`, and its changelog in Debian's form.

use super::Identity;
use crate::package::layout::CONFIGURATION;

/// What differs from package to package.
pub struct Facts<'a> {
    pub identity: &'a Identity,
    pub architecture: &'a str,
    /// Packages of libraries.
    pub libraries: Vec<String>,
    /// KiB.
    pub size: u64,
}

const DESCRIPTION: &str = "\
container networking in eBPF
 Containers of one host talk to each other, to the outside and from the outside
 through eBPF programs alone: no bridge device, no rule of iptables or nftables,
 no ip_forward. Networks are isolated from one another, IPv4 and IPv6 are
 masqueraded, and ports are published by number, range, weight and client.
 .
 The daemon starts with the machine; members of the group netbpf tell it what
 to do by the command of the same name. Packets are forwarded also while it is
 away. Linux 6.1 or newer is needed.";

pub fn control(facts: &Facts) -> String {
    // Whoever can make a system group.
    let mut depends = vec!["adduser | systemd | systemd-standalone-sysusers".to_owned()];
    depends.extend(facts.libraries.iter().cloned());
    let fields = [
        ("Package", "netbpf".to_owned()),
        ("Version", facts.identity.version.clone()),
        ("Architecture", facts.architecture.to_owned()),
        ("Maintainer", facts.identity.maintainer.clone()),
        ("Installed-Size", facts.size.to_string()),
        ("Depends", depends.join(", ")),
        ("Suggests", "bpftool".to_owned()),
        ("Section", "net".to_owned()),
        ("Priority", "optional".to_owned()),
        ("Description", DESCRIPTION.to_owned()),
    ];
    fields
        .map(|(key, value)| format!("{key}: {value}\n"))
        .concat()
}

/// What an administrator may change and `dpkg` asks about.
pub fn conffiles() -> String {
    format!("{CONFIGURATION}\n")
}

/// Cargo's version as Debian orders it: what comes before a release has a tilde.
pub fn version(cargo: &str) -> String {
    cargo.replacen('-', "~", 1)
}

/// The changelog of the project as one entry, in lines as short as Debian has them.
pub fn changelog(identity: &Identity, text: &str) -> String {
    let mut lines = vec![
        format!("netbpf ({}) unstable; urgency=medium", identity.version),
        String::new(),
    ];
    // The first lines say what the file is.
    let sections = text.lines().skip_while(|line| !line.starts_with("## "));
    for paragraph in paragraphs(sections) {
        lines.extend(wrap(&paragraph));
    }
    lines.push(String::new());
    lines.push(format!(" -- {}  {}", identity.maintainer, identity.date));
    lines.join("\n") + "\n"
}

/// Titles and items, each in one line.
fn paragraphs<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut paragraphs: Vec<String> = Vec::new();
    for line in lines {
        match (line.strip_prefix("  "), paragraphs.last_mut()) {
            (Some(rest), Some(item)) => {
                item.push(' ');
                item.push_str(rest);
            }
            _ if line.is_empty() => {}
            _ => paragraphs.push(line.to_owned()),
        }
    }
    paragraphs
}

fn wrap(paragraph: &str) -> Vec<String> {
    const WIDTH: usize = 80;
    let mut lines = Vec::new();
    let mut line = String::from(" ");
    for word in paragraph.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            // Below the text of its item.
            lines.push(std::mem::replace(&mut line, "   ".to_owned()));
        }
        line.push(' ');
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            version: version("0.2.0-rc.1"),
            maintainer: "A B <a@b.example>".into(),
            epoch: 0,
            date: "Thu, 01 Jan 1970 00:00:00 +0000".into(),
        }
    }

    #[test]
    fn control_has_its_fields() {
        let text = control(&Facts {
            identity: &identity(),
            architecture: "amd64",
            libraries: vec!["libc6 (>= 2.34)".into()],
            size: 4711,
        });
        for line in [
            "Package: netbpf",
            "Version: 0.2.0~rc.1",
            "Architecture: amd64",
            "Maintainer: A B <a@b.example>",
            "Installed-Size: 4711",
            "Depends: adduser | systemd | systemd-standalone-sysusers, libc6 (>= 2.34)",
            "Section: net",
            "Priority: optional",
            "Description: container networking in eBPF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
        assert!(text.lines().all(|l| l.len() <= 80), "{text}");
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn the_changelog_is_one_entry_of_short_lines() {
        let text = format!(
            "# Changelog\n\nWhat.\n\n## 1.0\n\n- A\n  b{}\n- C\n",
            " word".repeat(15)
        );
        let expected = format!(
            "netbpf (0.2.0~rc.1) unstable; urgency=medium\n\n  ## 1.0\n  - A b{}\n    word\n  \
             - C\n\n -- A B <a@b.example>  Thu, 01 Jan 1970 00:00:00 +0000\n",
            " word".repeat(14)
        );
        assert_eq!(changelog(&identity(), &text), expected);
    }
}
