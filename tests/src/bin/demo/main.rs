//! Shows the main job on namespaces of its own, and leaves nothing behind; with `--hosts N`
//! a network over several hosts.
//!
//! ```text
//!   web :80 ── front ┐
//!                    ├ host 192.0.2.1 ──── 192.0.2.2 client
//!   app ────── front ┘
//! ```
//!
//! Each step prints the command that it runs, has a time limit, and ends the
//! demo with a word on what was expected when it fails.

mod hosts;

use std::{
    panic,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::Parser;
use netbpf_tests::lab::{
    Background, Cmd, Container, Family, Lab, Street, binary, has_tools,
    names::{CLIENT, FRONT, HOST},
    remove_of, street_without_daemon, url, within,
};
use nix::sys::signal::{SigSet, Signal};

/// Shows what netbpf does, on network namespaces of its own
#[derive(Parser)]
#[command(name = "cargo xtask demo --")]
struct Options {
    /// A network over so many hosts, with an etcd
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=9))]
    hosts: Option<u8>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    clean_up_when_interrupted();
    panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("a step failed");
        eprintln!("\nThe demo failed: {message}");
    }));
    let run = || match options.hosts {
        Some(count) => hosts::run(count.into()),
        None => run(),
    };
    match panic::catch_unwind(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => {
            eprintln!("\nEverything that it made has been removed.");
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C and SIGTERM remove what the demo has made, then end it.
fn clean_up_when_interrupted() {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().expect("block signals");
    thread::spawn(move || {
        let signal = signals.wait().expect("wait for a signal");
        eprintln!("\n{signal}: removing what the demo has made");
        // The daemon and all commands end with this process.
        remove_of(std::process::id());
        std::process::exit(128 + signal as i32);
    });
}

fn run() {
    let netbpf = binary();
    say(
        "Two hosts as network namespaces with a wire between them; your own interfaces and settings are not touched.",
    );
    let street = street_without_daemon("the demo");
    println!("  host   {}  {}", HOST[0], HOST[1]);
    println!("  client {}  {}", CLIENT[0], CLIENT[1]);
    show(&format!(
        "netbpf daemon    # {}, in the host's namespace",
        netbpf.display()
    ));
    street.host.start(&[]);

    say(
        "A network of both families, and two containers on it; the first publishes its port 80 as 8080.",
    );
    let create = [
        "network",
        "create",
        FRONT.name,
        "--subnet",
        FRONT.subnets[0],
        "--subnet",
        FRONT.subnets[1],
    ];
    print_output(&on_host(&street, &create));
    let web = attach(&street, "web", &["-p", "8080:80"]);
    let app = attach(&street, "app", &[]);
    print_output(&on_host(&street, &["ps"]));
    print_output(&on_host(&street, &["port"]));

    from_outside(&street, &web);
    to_outside(&street, &web);
    siblings(&web, &app);
    figures(&street, &web);
    look_inside(&street);
    leave(street, &[web, app]);
}

/// The published port: real HTTP server, real curl, the client's own address.
fn from_outside(street: &Street, web: &Container) {
    say(
        "A web server in the container, fetched by curl from the client through the published port.",
    );
    let server = WebServer::start(&street.lab, web, 80);
    for family in Family::BOTH {
        let body = curl(&street.client, &url(family.ip(HOST), 8080, "hello.txt"));
        assert_eq!(body, "hello from web\n", "not our web server's page");
    }
    println!("The server's log shows the client's own addresses:");
    server.print_log(&[CLIENT[0], CLIENT[1]]);
}

/// Masquerade: the server outside sees the host.
fn to_outside(street: &Street, web: &Container) {
    say("A web server on the client, fetched from the container.");
    let server = WebServer::start(&street.lab, &street.client, 80);
    for family in Family::BOTH {
        let body = curl(web, &url(family.ip(CLIENT), 80, "hello.txt"));
        assert_eq!(body, "hello from client\n", "not our web server's page");
    }
    println!("The server's log shows the host's addresses, not the container's:");
    server.print_log(&[HOST[0], HOST[1]]);
}

fn siblings(web: &Container, app: &Container) {
    say("Container to container, in both families.");
    for family in Family::BOTH {
        let address = web.addr(family).to_string();
        let ping = ["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", &address];
        print_output(&in_space(app, &ping).ok());
    }
}

fn figures(street: &Street, web: &Container) {
    say("A few figures.");
    let round_trips = |space: &netbpf_tests::lab::Namespace, address: &str| {
        let ping = [
            "ping", "-n", "-q", "-c", "200", "-i", "0.002", "-W", "1", address,
        ];
        let output = in_space(space, &ping).ok();
        for line in output.lines().filter(|line| line.contains("rtt")) {
            println!("{line}");
        }
    };
    round_trips(web, CLIENT[0]);
    if !has_tools("demo: stream", &["iperf3"]) {
        return;
    }
    let mut server = web
        .run(&["iperf3", "-s", "-p", "80"])
        .timeout(Duration::from_secs(60))
        .spawn();
    wait_for_listener(web, 80, &mut server);
    let iperf = ["iperf3", "-c", HOST[0], "-p", "8080", "-t", "2", "-J"];
    let output = in_space(&street.client, &iperf).ok();
    let result: serde_json::Value = serde_json::from_str(&output).expect("iperf3 prints JSON");
    let rate = result["end"]["sum_received"]["bits_per_second"].as_f64();
    println!(
        "{:.1} Gbit/s through the published port",
        rate.unwrap_or(0.0) / 1e9
    );
}

fn look_inside(street: &Street) {
    say("What the programs know.");
    print_output(&on_host(street, &["flows"]));
    print_output(&on_host(street, &["drops"]));
    if !has_tools("demo: maps", &["bpftool"]) {
        return;
    }
    for map in ["endpoints", "ports"] {
        let Some(pin) = find(&street.host.bpffs(), map) else {
            panic!(
                "the map {map} is not pinned below {}",
                street.host.bpffs().display()
            );
        };
        show(&format!("bpftool map dump pinned {}", pin.display()));
        let pin = pin.display().to_string();
        let dump = Cmd::new(&["bpftool", "map", "dump", "pinned", &pin]).ok();
        let lines: Vec<&str> = dump.lines().collect();
        println!("{}", lines[..lines.len().min(24)].join("\n"));
        if lines.len() > 24 {
            println!("… {} more lines", lines.len() - 24);
        }
    }
    print_output(&on_host(street, &["status"]));
}

fn leave(street: Street, containers: &[Container]) {
    say("And away again.");
    for container in containers {
        print_output(&on_host(&street, &["detach", container.endpoint()]));
    }
    print_output(&on_host(&street, &["teardown", "--purge"]));
    street.host.wait_ended();
    let left = street.host.ip("-o link show");
    let names = left.lines().filter_map(|line| line.split(": ").nth(1));
    let names: Vec<&str> = names
        .map(|name| name.split('@').next().unwrap_or(name))
        .collect();
    println!("Devices left on the host: {}", names.join(" "));
    assert_eq!(names.len(), 2, "teardown left devices: {names:?}");
    drop(street);
    println!("\nDone; the namespaces are gone.");
}

/// A real HTTP server that logs who fetches.
struct WebServer {
    process: Background,
}

impl WebServer {
    fn start(lab: &Lab, space: &netbpf_tests::lab::Namespace, port: u16) -> WebServer {
        let pages = lab.dir().join(space.role());
        std::fs::create_dir_all(&pages).expect("make a directory");
        let text = format!("hello from {}\n", space.role());
        std::fs::write(pages.join("hello.txt"), text).expect("write a page");
        let (pages, port_text) = (pages.display().to_string(), port.to_string());
        // Python's own http.server, on a socket that takes both families.
        let argv: Vec<&str> = if has_tools("demo: python's web server", &["python3"]) {
            vec![
                "python3",
                "-u",
                "-m",
                "http.server",
                "--bind",
                "::",
                "-d",
                &pages,
                &port_text,
            ]
        } else {
            vec![
                "busybox", "httpd", "-f", "-v", "-p", &port_text, "-h", &pages,
            ]
        };
        show(&format!("{}    # in {}", argv.join(" "), space.role()));
        let mut process = space.run(&argv).timeout(Duration::from_secs(60)).spawn();
        wait_for_listener(space, port, &mut process);
        WebServer { process }
    }

    /// Prints the log; fails when one of the addresses is missing in it.
    fn print_log(&self, addresses: &[&str]) {
        let logged = || self.process.stdout() + &self.process.stderr();
        let all = || addresses.iter().all(|address| logged().contains(address));
        within(
            Duration::from_secs(2),
            &format!("{addresses:?} in the server's log"),
            all,
        );
        for line in logged().lines().filter(|line| line.contains("GET")) {
            println!("  {line}");
        }
    }
}

fn wait_for_listener(space: &netbpf_tests::lab::Namespace, port: u16, server: &mut Background) {
    let filter = format!("sport = :{port}");
    within(
        Duration::from_secs(10),
        &format!("a server on port {port}"),
        || {
            assert!(
                server.is_running(),
                "the server on port {port} has ended: {}",
                server.stderr()
            );
            space
                .run(&["ss", "-Hltn", &filter])
                .ok()
                .contains(&format!(":{port}"))
        },
    );
}

fn attach(street: &Street, name: &str, flags: &[&str]) -> Container {
    let mut command = vec!["netbpf", "attach", "--name", name, "--network", FRONT.name];
    command.extend(["--netns", name]);
    command.extend(flags);
    show(&command.join(" "));
    let container = street.front(name, flags);
    println!(
        "  {} has {} and {}",
        name,
        container.addr(Family::V4),
        container.addr(Family::V6)
    );
    container
}

fn on_host(street: &Street, arguments: &[&str]) -> String {
    show(&format!("netbpf {}", arguments.join(" ")));
    street.host.netbpf(arguments).ok()
}

fn in_space(space: &netbpf_tests::lab::Namespace, argv: &[&str]) -> Cmd {
    show(&format!("{}    # in {}", argv.join(" "), space.role()));
    space.run(argv)
}

fn curl(space: &netbpf_tests::lab::Namespace, url: &str) -> String {
    let argv = [
        "curl",
        "-sS",
        "-g",
        "--noproxy",
        "*",
        "--max-time",
        "5",
        url,
    ];
    show(&format!("curl '{url}'    # in {}", space.role()));
    let body = space.run(&argv).ok();
    print!("{body}");
    body
}

fn say(text: &str) {
    println!("\n== {text}");
}

fn show(command: &str) {
    println!("$ {command}");
}

fn print_output(text: &str) {
    let text = text.trim_end();
    if !text.is_empty() {
        println!("{text}");
    }
}

/// The file of that name below a directory.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    for path in entries {
        if path.is_dir() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|file| file == name) {
            return Some(path);
        }
    }
    None
}
