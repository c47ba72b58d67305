//! Runs the steps of a command. What a step prints goes to the terminal and to
//! a log of its own; a failure names the step, the log and what helps.

use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, LazyLock, Mutex},
    thread,
    time::Instant,
};

/// Of the first step: where the time of a run goes is seen by each step's beginning.
static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A step and its log.
pub struct Step {
    name: String,
    log: PathBuf,
}

/// What a step did.
pub struct Done {
    pub status: ExitStatus,
    /// Everything it printed, both streams, line by line as it came.
    pub output: String,
}

impl Step {
    /// Announces a step; its log will lie under `target/logs`.
    pub fn new(root: &Path, name: &str) -> Result<Self> {
        let directory = root.join("target/logs");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        eprintln!("== {name} ({} s)", BEGUN.elapsed().as_secs());
        Ok(Self {
            name: name.to_owned(),
            log: directory.join(format!("{}.log", name.replace([' ', '/'], "-"))),
        })
    }

    /// Runs a command that must succeed.
    pub fn run(&self, command: &mut Command, remedy: &str) -> Result<String> {
        let done = self.try_run(command)?;
        if !done.status.success() {
            bail!(self.failure(&done.status.to_string(), remedy));
        }
        Ok(done.output)
    }

    /// Runs a command and leaves it to the caller what its status means.
    pub fn try_run(&self, command: &mut Command) -> Result<Done> {
        if io::stderr().is_terminal() {
            // It sees a pipe and would leave the colours out.
            command.env("CARGO_TERM_COLOR", "always");
        }
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| self.failure(&format!("cannot run {program}"), ""))?;
        let log = File::create(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let sink = Arc::new(Mutex::new((log, String::new())));
        let readers = [
            child
                .stdout
                .take()
                .map(|s| Box::new(s) as Box<dyn Read + Send>),
            child
                .stderr
                .take()
                .map(|s| Box::new(s) as Box<dyn Read + Send>),
        ]
        .into_iter()
        .flatten()
        .map(|stream| {
            let sink = Arc::clone(&sink);
            thread::spawn(move || copy_lines(stream, &sink))
        })
        .collect::<Vec<_>>();
        let status = child.wait().context("cannot wait for the step")?;
        for reader in readers {
            // A reader ends with its stream; it has nothing to report.
            _ = reader.join();
        }
        let mut sink = sink.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Ok(Done {
            status,
            output: std::mem::take(&mut sink.1),
        })
    }

    /// The one message of a failed step.
    pub fn failure(&self, what: &str, remedy: &str) -> String {
        let mut text = format!(
            "step \"{}\" failed: {what}\n  log: {}",
            self.name,
            self.log.display()
        );
        if !remedy.is_empty() {
            text.push_str("\n  remedy: ");
            text.push_str(remedy);
        }
        text
    }

    pub fn log(&self) -> &Path {
        &self.log
    }
}

fn copy_lines(stream: impl Read, sink: &Mutex<(File, String)>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line);
        let mut sink = sink.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // A closed terminal or a full disk is no reason to end the step. Messages
        // of cargo to programs are for the log alone.
        if !text.starts_with("{\"reason\":") {
            _ = io::stderr().write_all(&line);
        }
        _ = sink.0.write_all(&line);
        sink.1.push_str(&text);
        line.clear();
    }
}
