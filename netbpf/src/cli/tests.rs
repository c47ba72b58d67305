//! What can be typed, and what comes of it.

use serde_json::Value;

use super::{args::*, *};
use crate::{
    error::{Code, Error},
    model::{AttachSpec, NetnsRef, NetworkSpec},
};

fn parse(line: &[&str]) -> Cli {
    Cli::try_parse_from(std::iter::once(&"netbpf").chain(line))
        .unwrap_or_else(|e| panic!("{line:?}: {e}"))
}

fn refused(line: &[&str]) -> clap::Error {
    match Cli::try_parse_from(std::iter::once(&"netbpf").chain(line)) {
        Ok(_) => panic!("{line:?} must be refused"),
        Err(error) => error,
    }
}

fn attach(line: &[&str]) -> AttachSpec {
    let base = ["attach", "--name", "web", "--netns", "ns1"];
    let line: Vec<&str> = base.iter().chain(line).copied().collect();
    match parse(&line).command {
        Some(Command::Attach(attach)) => (*attach).into(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn global_flags_stand_before_or_after() {
    for line in [
        &["-j", "-q", "--socket", "/s", "-v", "network", "ls"][..],
        &["network", "-jqv", "--socket=/s", "ls"],
        &[
            "network",
            "ls",
            "--json",
            "--quiet",
            "--socket",
            "/s",
            "--verbose",
        ],
    ] {
        let global = parse(line).global;
        assert!(global.json && global.quiet, "{line:?}");
        assert_eq!(global.verbose, 1);
        assert_eq!(global.socket.as_deref(), Some(Path::new("/s")));
    }
}

#[test]
fn json_is_known_before_parsing() {
    let wants = |line: &[&str]| {
        let line: Vec<OsString> = line.iter().map(OsString::from).collect();
        wants_json(&line)
    };
    assert!(wants(&["netbpf", "ps", "-j"]));
    assert!(wants(&["netbpf", "-qj", "frob"]));
    assert!(wants(&["netbpf", "--json"]));
    assert!(!wants(&["netbpf", "ps", "--joke"]));
    assert!(!wants(&["netbpf", "attach", "-pj"]));
    assert!(!wants(&["netbpf", "run", "--", "-j"]));
    assert!(!wants(&["-j"]));
}

#[test]
fn attach_takes_all_of_the_interface() {
    let spec = attach(&[
        "--network",
        "front",
        "--ifname",
        "eth3",
        "--ip",
        "10.0.0.5",
        "--ip",
        "fd00::5",
        "--mac",
        "02:00:00:00:00:09",
        "-p",
        "8080:80",
        "--publish",
        "53:53/udp",
        "-P",
        "--expose",
        "80/tcp",
        "--expose",
        "81/udp",
        "--alias",
        "a",
        "--alias",
        "b",
        "--link",
        "db:d",
        "--link",
        "x",
        "--label",
        "k=v",
        "--label",
        "url=a=b",
    ]);
    assert_eq!(spec.network.as_deref(), Some("front"));
    assert_eq!(spec.netns, NetnsRef::Netns("ns1".into()));
    assert_eq!(spec.ifname.as_deref(), Some("eth3"));
    assert_eq!(spec.ips.len(), 2);
    assert_eq!(spec.mac.as_deref(), Some("02:00:00:00:00:09"));
    assert_eq!(spec.publish, ["8080:80", "53:53/udp"]);
    assert!(spec.publish_all);
    assert_eq!(spec.expose, ["80/tcp", "81/udp"]);
    assert_eq!(spec.aliases, ["a", "b"]);
    assert_eq!(spec.links, ["db:d", "x"]);
    assert_eq!(
        (spec.labels["k"].as_str(), spec.labels["url"].as_str()),
        ("v", "a=b")
    );
}

#[test]
fn long_form_of_a_port_stays_one_value() {
    let long = "published=8080,target=80,allow=10.0.0.0/8,allow=fd00::/8";
    assert_eq!(attach(&["-p", long]).publish, [long]);
    let Some(Command::Publish(publish)) = parse(&["publish", "web", "-p", long]).command else {
        panic!("publish was typed");
    };
    assert_eq!(publish.publish, [long]);
}

#[test]
fn exactly_one_namespace_is_needed() {
    let Some(Command::Attach(by_pid)) = parse(&["attach", "--name", "a", "--pid", "7"]).command
    else {
        panic!("attach was typed");
    };
    assert_eq!(AttachSpec::from(*by_pid).netns, NetnsRef::Pid(7));
    refused(&["attach", "--name", "a"]);
    refused(&["attach", "--name", "a", "--pid", "7", "--netns", "x"]);
    refused(&["attach", "--name", "a", "--pid", "0"]);
    refused(&["attach", "--pid", "7"]);
}

#[test]
fn network_create_takes_all_of_the_interface() {
    let line = [
        "network",
        "create",
        "n",
        "--driver",
        "bridge",
        "--subnet",
        "10.0.0.0/24",
        "--subnet",
        "fd00::/64",
        "--gateway",
        "10.0.0.1",
        "--ip-range",
        "10.0.0.128/25",
        "--ipv6",
        "--internal",
        "--no-icc",
        "--no-masquerade",
        "--mtu",
        "1400",
        "--label",
        "a=",
    ];
    let Some(Command::Network(network)) = parse(&line).command else {
        panic!("network was typed");
    };
    let NetworkVerb::Create(create) = network.verb else {
        panic!("create was typed");
    };
    let spec = NetworkSpec::from(*create);
    assert_eq!(
        (
            spec.subnets.len(),
            spec.gateways.len(),
            spec.ip_ranges.len()
        ),
        (2, 1, 1)
    );
    assert!(spec.ipv6 && spec.internal && !spec.icc && !spec.masquerade);
    assert_eq!((spec.mtu, spec.labels["a"].as_str()), (Some(1400), ""));
}

#[test]
fn documented_forms_parse() {
    for line in [
        &["network", "ls"][..],
        &["network", "inspect", "n"],
        &["network", "rm", "n"],
        &["network", "rm", "n", "m"],
        &["detach", "web", "db"],
        &["completions", "zsh"],
        &["status", "--wait", "10"],
        &["network", "prune"],
        &["detach", "web"],
        &["detach", "web", "--network", "n"],
        &["ps"],
        &["inspect", "web", "--network", "n"],
        &["publish", "web", "--network", "n", "-p", "80", "-p", "81"],
        &["unpublish", "web", "-p", "80"],
        &["port"],
        &["port", "web"],
        &["status"],
        &["status", "--wait", "10s"],
        &[
            "teardown",
            "--purge",
            "--state-dir",
            "/a",
            "--run-dir",
            "/b",
            "--bpffs",
            "/c",
        ],
        &["drops", "--endpoint", "web", "--network", "n"],
        &["flows"],
        &["flows", "--endpoint", "web", "--src", ":53"],
        &["flows", "flush"],
        &[
            "flows",
            "-j",
            "flush",
            "--state",
            "half_closed",
            "--kind",
            "local",
        ],
        &["daemon"],
        &["daemon", "--check-config"],
        &["reload"],
    ] {
        let command = parse(line).command.unwrap();
        later::refuse(command).unwrap_or_else(|e| panic!("{line:?}: {e}"));
    }
}

#[test]
fn wrong_usage_is_refused_in_one_line() {
    let rows = [
        (&["frob"][..], "'frob'"),
        (&["attach"], "--name <NAME>"),
        (&["publish", "web"], "--publish <SPEC>"),
        (
            &["network", "create", "n", "--subnet", "10.0.0.0/40"],
            "10.0.0.0/40",
        ),
        (&["network", "create", "n", "--mtu", "70000"], "70000"),
        (&["network", "create", ""], "NAME"),
        (&["network", "create", "n", "--label", "x"], "KEY=VALUE"),
        (&["network", "create", "n", "--driver", "ring"], "ring"),
        (&["status", "--wait", "soon"], "soon"),
        (&["daemon", "--pool", "10.0.0.0/8"], "10.0.0.0/8"),
        (&["daemon", "--log-format", "xml"], "xml"),
        (&["flows", "flush", "--state", "odd"], "odd"),
        (&["flows", "--kind", "nat"], "nat"),
        (&["flows", "flush", "--src", ""], "--src"),
        (&["flows", "flush", "--all"], "--all"),
        (&["network"], "a command is missing"),
    ];
    for (line, expected) in rows {
        let failure = Failure::Usage(usage_line(&refused(line)));
        assert_eq!(failure.status(), 2);
        for text in [failure.line(false), failure.line(true)] {
            assert!(text.contains(expected), "{line:?}: {text}");
            assert!(!text.contains('\n') && !text.contains("Usage:"), "{text}");
        }
    }
    let hint = usage_line(&refused(&["unpublish", "web"]));
    assert!(hint.ends_with("(see netbpf unpublish --help)"), "{hint}");
}

#[test]
fn later_features_are_refused_by_name() {
    let attach = ["attach", "--name", "a", "--pid", "1"];
    let with = |more: &[&'static str]| attach.iter().chain(more).copied().collect::<Vec<_>>();
    let rows = [
        (
            vec!["run", "--name", "x", "--", "sh", "-c", "true"],
            "netbpf run",
        ),
        (vec!["exec", "x", "--", "sh"], "netbpf exec"),
        (vec!["stop", "x"], "netbpf stop"),
        (
            vec!["update", "x", "--ingress-rate", "1g"],
            "--ingress-rate",
        ),
        (vec!["capture", "x", "-w", "f"], "netbpf capture"),
        (vec!["trace", "--from", "a", "--to", "b"], "netbpf trace"),
        (
            vec!["network", "create", "n", "--driver", "lan"],
            "--driver lan",
        ),
        (
            vec![
                "network", "create", "n", "--driver", "overlay", "--encap", "none",
            ],
            "--encap none",
        ),
        (
            vec!["network", "create", "n", "--parent", "eth0"],
            "--parent",
        ),
        (with(&["--ingress-rate", "1m"]), "--ingress-rate"),
        (with(&["--egress-rate", "1m"]), "--egress-rate"),
        (with(&["--resolv-conf", "/r"]), "--resolv-conf"),
    ];
    for (line, feature) in rows {
        let failure = later::refuse(parse(&line).command.unwrap()).unwrap_err();
        assert_eq!(
            (failure.status(), failure.info().code.as_str()),
            (1, "not_implemented")
        );
        let expected = format!("{feature} is not implemented");
        assert!(
            failure.info().message.starts_with(&expected),
            "{line:?}: {failure}"
        );
    }
}

#[test]
fn help_names_what_is_there_and_nothing_else() {
    fn all(command: &mut clap::Command, text: &mut String) {
        *text += &command.render_long_help().to_string();
        for sub in command
            .get_subcommands_mut()
            .filter(|sub| !sub.is_hide_set())
        {
            all(sub, text);
        }
    }
    let mut command = Cli::command();
    command.build();
    let mut text = String::new();
    all(&mut command, &mut text);
    for there in [
        "--teardown-on-exit",
        "--no-icc",
        "--publish-all",
        "--share",
        "--drain",
        "--wait",
        "--purge",
        "flush",
        "--etcd",
        "--node-ip",
        "overlay",
        "--vni",
    ] {
        assert!(text.contains(there), "{there}");
    }
    for later in ["capture", "gress-rate"] {
        assert!(!text.contains(later), "{later}");
    }
}

#[test]
fn help_of_reload_names_what_changes_live() {
    let mut root = Cli::command();
    let reload = root.find_subcommand_mut("reload").unwrap();
    let help = reload.render_long_help().to_string();
    for key in crate::config::LIVE {
        assert!(help.contains(key), "{key}");
    }
}

#[test]
fn every_command_has_an_example() {
    fn check(command: &clap::Command) {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let after = sub
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(after.contains("netbpf "), "{}", sub.get_name());
            check(sub);
        }
    }
    check(&Cli::command());
}

#[test]
fn errors_are_one_line() {
    let error = Error::new(Code::PortInUse, "port 8080/tcp\nis \"taken\"\u{1b}[2J");
    let failure = Failure::from(error);
    assert_eq!(
        failure.line(false),
        "netbpf: port 8080/tcp is \"taken\"\\u{1b}[2J"
    );
    let json: Value = serde_json::from_str(&failure.line(true)).unwrap();
    assert_eq!(json["error"]["code"], "port_in_use");
    assert_eq!(failure.status(), 1);
}

#[test]
fn plugins_are_known_by_their_name() {
    let is_cni = |name: &str| is_called(&[name.into()], "netbpf-cni");
    assert!(is_cni("/opt/cni/bin/netbpf-cni") && is_cni("netbpf-cni"));
    assert!(!is_cni("netbpf") && !is_cni("/netbpf-cni/netbpf"));
}
