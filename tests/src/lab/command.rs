//! Commands with a time limit and an expected end. Whatever deviates panics
//! with the command line, its exit and both its streams.

use std::{
    fmt,
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{prctl, signal, signal::Signal},
    unistd::Pid,
};

/// A command to run, in a namespace or not.
#[must_use]
#[derive(Clone)]
pub struct Cmd {
    argv: Vec<String>,
    namespace: Option<PathBuf>,
    cgroups: Vec<PathBuf>,
    environment: Vec<(String, String)>,
    stdin: Option<String>,
    timeout: Duration,
    refusals: Vec<Refusal>,
}

/// A system call that the kernel refuses to a command: how one that lacks it, or
/// what it is asked for, would answer.
#[derive(Clone, Copy)]
pub struct Refusal {
    pub call: i64,
    /// Only with this as the first argument.
    pub first: Option<u32>,
    pub errno: i32,
}

/// How a command ended.
#[derive(Clone)]
pub struct Output {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Cmd {
    pub fn new<S: AsRef<str>>(argv: &[S]) -> Cmd {
        Cmd {
            argv: argv.iter().map(|s| s.as_ref().to_owned()).collect(),
            namespace: None,
            cgroups: Vec::new(),
            environment: Vec::new(),
            stdin: None,
            // While the kernel frees the namespaces of a test before, all that asks it by netlink
            // waits.
            timeout: Duration::from_secs(30),
            refusals: Vec::new(),
        }
    }

    /// Runs it with this system call refused.
    pub fn refusing(mut self, refusal: Refusal) -> Cmd {
        self.refusals.push(refusal);
        self
    }

    /// Runs it in the network namespace at this path.
    pub fn within(mut self, namespace: &Path) -> Cmd {
        self.namespace = Some(namespace.into());
        self
    }

    /// Runs it in this cgroup, too: each hierarchy has its own.
    pub fn cgroup(mut self, cgroup: Option<&Path>) -> Cmd {
        self.cgroups.extend(cgroup.map(Into::into));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Cmd {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn stdin(mut self, text: &str) -> Cmd {
        self.stdin = Some(text.into());
        self
    }

    /// Kills it, and fails, after this long; 10 s when not said.
    pub fn timeout(mut self, timeout: Duration) -> Cmd {
        self.timeout = timeout;
        self
    }

    /// Runs it; its standard output. Fails when the exit status is not 0.
    #[track_caller]
    pub fn ok(self) -> String {
        self.exits(0).stdout
    }

    /// Runs it; fails when it exits with another status.
    #[track_caller]
    pub fn exits(self, code: i32) -> Output {
        let output = self.output();
        assert!(
            output.status.code() == Some(code),
            "expected exit {code}:\n{output}"
        );
        output
    }

    /// Runs it; fails when it succeeds.
    #[track_caller]
    pub fn fails(self) -> Output {
        let output = self.output();
        assert!(!output.status.success(), "expected a failure:\n{output}");
        output
    }

    /// Runs it, however it ends within the time limit.
    #[track_caller]
    pub fn output(self) -> Output {
        self.spawn().wait()
    }

    /// Starts it.
    #[track_caller]
    pub fn spawn(self) -> Background {
        let stdout = anonymous_file();
        let stderr = anonymous_file();
        let child = self.start(&stdout, &stderr);
        Background {
            child: Some(child),
            deadline: Instant::now() + self.timeout,
            command: self.to_string(),
            stdout,
            stderr,
        }
    }

    /// Starts it with both streams going there.
    #[track_caller]
    pub(super) fn start(&self, stdout: &File, stderr: &File) -> Child {
        let mut argv = Vec::new();
        if let Some(namespace) = &self.namespace {
            argv.push("nsenter".to_owned());
            argv.push(format!("--net={}", namespace.display()));
            argv.push("--".to_owned());
        }
        argv.extend(self.argv.iter().cloned());
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).env("LC_ALL", "C");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NETBPF_")) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(n, v)| (n, v)));
        command.stdout(stdout.try_clone().expect("dup"));
        command.stderr(stderr.try_clone().expect("dup"));
        command.stdin(match &self.stdin {
            Some(text) => {
                let mut file = anonymous_file();
                file.write_all(text.as_bytes()).expect("write stdin");
                file.rewind().expect("rewind stdin");
                Stdio::from(file)
            }
            None => Stdio::null(),
        });
        let cgroups = self.cgroups.iter().map(|dir| {
            let procs = dir.join("cgroup.procs");
            let opened = File::options().write(true).open(&procs);
            opened.unwrap_or_else(|e| panic!("{}: {e}", procs.display()))
        });
        let cgroups: Vec<File> = cgroups.collect();
        let filter = seccomp::filter(&self.refusals);
        // SAFETY: between fork and exec only prctl and write are called, which
        // are async-signal-safe and allocate nothing.
        unsafe {
            command.pre_exec(move || {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                if !filter.is_empty() {
                    seccomp::set(&filter)?;
                }
                for mut procs in &cgroups {
                    procs.write_all(b"0")?;
                }
                Ok(())
            });
        }
        command
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {self}: {e}"))
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.namespace.as_ref().and_then(|path| path.file_name()) {
            write!(f, "[{}] ", name.display())?;
        }
        write!(f, "{}", self.argv.join(" "))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "$ {}\n{}\n-- stdout\n{}\n-- stderr\n{}",
            self.command, self.status, self.stdout, self.stderr
        )
    }
}

/// A command line in its words, none of which has a space.
pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// A running command; killed when dropped.
pub struct Background {
    child: Option<Child>,
    deadline: Instant,
    command: String,
    stdout: File,
    stderr: File,
}

impl Background {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut().expect("not waited for");
        matches!(child.try_wait(), Ok(None))
    }

    pub fn signal(&self, what: Signal) {
        send_signal(self.pid(), what);
    }

    /// What it has printed to stderr so far.
    pub fn stderr(&self) -> String {
        read_all(&self.stderr)
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        read_all(&self.stdout)
    }

    /// Waits for its end; kills it and fails when its time is over.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        let mut child = self.child.take().expect("waited for once");
        let status = wait_until(&mut child, self.deadline);
        let expired = status.is_none();
        let status = status.unwrap_or_else(|| {
            _ = child.kill();
            child.wait().unwrap_or(ExitStatus::from_raw(9))
        });
        let output = Output {
            command: self.command.clone(),
            status,
            stdout: read_all(&self.stdout),
            stderr: read_all(&self.stderr),
        };
        assert!(!expired, "did not end in time:\n{output}");
        output
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// System calls refused, by a program of classic BPF (`linux/seccomp.h`).
mod seccomp {
    use std::io;

    use super::Refusal;

    /// Offsets in `struct seccomp_data`.
    const CALL: u32 = 0;
    const FIRST: u32 = 16;

    pub fn filter(refusals: &[Refusal]) -> Vec<libc::sock_filter> {
        if refusals.is_empty() {
            return Vec::new();
        }
        let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
        let answer = |what| statement(libc::BPF_RET | libc::BPF_K, what);
        let mut program = Vec::new();
        for refusal in refusals {
            let errno = libc::SECCOMP_RET_ERRNO | refusal.errno as u32;
            program.push(load(CALL));
            match refusal.first {
                None => program.push(jump(refusal.call as u32, 0, 1)),
                Some(first) => {
                    program.push(jump(refusal.call as u32, 0, 3));
                    program.push(load(FIRST));
                    program.push(jump(first, 0, 1));
                }
            }
            program.push(answer(errno));
        }
        program.push(answer(libc::SECCOMP_RET_ALLOW));
        program
    }

    fn statement(code: u32, k: u32) -> libc::sock_filter {
        libc::sock_filter {
            code: code as u16,
            jt: 0,
            jf: 0,
            k,
        }
    }

    /// Skips so many statements where it is equal, and where it is not.
    fn jump(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
        let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        libc::sock_filter { code, jt, jf, k }
    }

    /// For the calling thread and what it executes.
    pub fn set(filter: &[libc::sock_filter]) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: the program is alive during the call, which copies it.
        let done =
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The status of a child that ends before the deadline.
pub(super) fn wait_until(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    let mut pause = Duration::from_micros(500);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

pub(super) fn send_signal(pid: u32, what: Signal) {
    if let Ok(pid) = i32::try_from(pid)
        && pid > 0
    {
        _ = signal::kill(Pid::from_raw(pid), what);
    }
}

fn anonymous_file() -> File {
    let fd = nix::sys::memfd::memfd_create(c"netbpf-test", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .expect("memfd_create");
    File::from(fd)
}

/// The whole content, from an offset of its own: the child writes meanwhile.
fn read_all(file: &File) -> String {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    let mut bytes = Vec::new();
    _ = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
