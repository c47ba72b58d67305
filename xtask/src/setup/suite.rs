//! Package lists of another Debian suite, from where the system has its own: the same
//! mirror, signed by the same keyring. apt knows of them only while they are used here.

use super::apt::{Lists, SYSTEM};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Lists that were fetched just now. They go when this is dropped.
#[derive(Debug)]
pub struct Suite {
    directory: PathBuf,
    pub lists: Lists,
}

impl Suite {
    /// Fetches them into a directory of their own below `scratch`.
    pub fn fetch(name: &str, scratch: &Path) -> Result<Self> {
        let archive = Archive::of_system()?;
        // Of this process: the directory may be shared with another setup.
        let directory = scratch.join(format!("{name}.{}", std::process::id()));
        let sources = directory.join(format!("{name}.sources"));
        let suite = Self {
            lists: Lists::apart(&directory, &sources),
            directory,
        };
        let lay_out = || {
            // Newer apt makes them itself.
            fs::create_dir_all(suite.directory.join("lists/partial"))?;
            fs::create_dir_all(suite.directory.join("cache/archives/partial"))?;
            fs::write(&sources, archive.sources(name))
        };
        lay_out().with_context(|| format!("cannot fill {}", suite.directory.display()))?;
        eprintln!("setup: fetching the package lists of Debian {name} (10 MB)");
        suite
            .lists
            .update()
            .with_context(|| format!("{} has no {name} for us", archive.mirror))?;
        Ok(suite)
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        // It only takes room.
        _ = fs::remove_dir_all(&self.directory);
    }
}

/// Where Debian's packages come from, and who signs their lists.
#[derive(Debug, PartialEq, Eq)]
struct Archive {
    mirror: String,
    /// A field of deb822, line breaks included; None for the keys that apt trusts anyway.
    signed_by: Option<String>,
}

impl Archive {
    /// As apt has it from the system's sources.
    fn of_system() -> Result<Self> {
        let format = "$(REPO_URI) $(SOURCESENTRY)";
        // Security updates have a label, and mirrors, of their own.
        let filter = ["Created-By: Packages", "Origin: Debian", "Label: Debian"];
        let arguments = [&["indextargets", "--format", format], &filter[..]].concat();
        let targets = SYSTEM.run("apt-get", &arguments)?;
        let first = targets.lines().next();
        let (mirror, entry) = first
            .and_then(|line| line.split_once(' '))
            .context("the system's packages do not come from Debian")?;
        let (file, number) = entry
            .rsplit_once(':')
            .with_context(|| format!("apt names its sources as {entry}"))?;
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        let number = number.parse().unwrap_or(1);
        Ok(Self {
            mirror: mirror.to_owned(),
            signed_by: match file.ends_with(".sources") {
                true => signed_by_of_stanza(&text, number),
                false => signed_by_of_line(&text, number),
            },
        })
    }

    /// An entry for this suite: of its lists only those that name packages.
    fn sources(&self, suite: &str) -> String {
        let mirror = &self.mirror;
        let mut entry = format!(
            "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nTargets: Packages\n"
        );
        if let Some(signed_by) = &self.signed_by {
            entry.push_str(&format!("Signed-By:{signed_by}\n"));
        }
        entry
    }
}

/// The field in the stanza of this number, counted from 1.
fn signed_by_of_stanza(text: &str, number: usize) -> Option<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut stanzas = lines
        .split(|line| line.trim().is_empty())
        .filter(|stanza| !stanza.is_empty());
    let mut lines = stanzas
        .nth(number.checked_sub(1)?)?
        .iter()
        .skip_while(|line| !line.to_ascii_lowercase().starts_with("signed-by:"));
    let mut value = lines.next()?.split_once(':')?.1.to_owned();
    for further in lines.take_while(|line| line.starts_with([' ', '\t'])) {
        value.push('\n');
        value.push_str(further);
    }
    Some(value)
}

/// The option in the line of this number, counted from 1:
/// `deb [arch=amd64 signed-by=/k.gpg] URI SUITE main`.
fn signed_by_of_line(text: &str, number: usize) -> Option<String> {
    let line = text.lines().nth(number.checked_sub(1)?)?;
    let (options, _) = line.split_once('[')?.1.split_once(']')?;
    options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="))
        .map(|keys| format!(" {}", keys.replace(',', " ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_stanza() {
        let text = "# of Debian\n\nTypes: deb\n# a mirror\nURIs: http://m/debian\nSigned-By: /k.gpg\n\
                    \n\nTypes: deb\nsigned-by:\n -----BEGIN\n .\n x\nSuites: s\n\nTypes: deb\n";
        assert_eq!(signed_by_of_stanza(text, 1).as_deref(), Some(" /k.gpg"));
        let inline = "\n -----BEGIN\n .\n x";
        assert_eq!(signed_by_of_stanza(text, 2).as_deref(), Some(inline));
        assert_eq!(signed_by_of_stanza(text, 3), None);
        assert_eq!(signed_by_of_stanza(text, 4), None);
    }

    #[test]
    fn keys_of_a_line() {
        let text = "# deb\ndeb [arch=amd64 signed-by=/k.gpg,/l.gpg] http://m s main\n\
                    deb http://m s main\n";
        assert_eq!(
            signed_by_of_line(text, 2).as_deref(),
            Some(" /k.gpg /l.gpg")
        );
        assert_eq!(signed_by_of_line(text, 1), None);
        assert_eq!(signed_by_of_line(text, 3), None);
    }

    #[test]
    fn an_entry_for_another_suite() {
        let archive = Archive {
            mirror: "http://m/debian/".into(),
            signed_by: Some(" /k.gpg".into()),
        };
        assert_eq!(
            archive.sources("forky"),
            "Types: deb\nURIs: http://m/debian/\nSuites: forky\nComponents: main\n\
             Targets: Packages\nSigned-By: /k.gpg\n"
        );
    }
}
