use std::{collections::HashMap, fs};

use clap::Parser;

use super::*;
use crate::cli::args::{Cli, Command};

/// Loads what these flags, variables and file say.
fn load_all(flags: &[&str], variables: &[(&str, &str)], file: &str) -> Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("netbpf.toml");
    fs::write(&path, file).unwrap();
    let line = ["netbpf", "daemon"].iter().chain(flags);
    let cli = Cli::try_parse_from(line).unwrap();
    let Some(Command::Daemon(daemon)) = cli.command else {
        panic!("daemon was typed");
    };
    load_from(
        Typed::new(daemon.options, cli.global.socket, Some(path)),
        variables,
    )
}

fn load_from(typed: Typed, variables: &[(&str, &str)]) -> Result<Config> {
    let variables: HashMap<&str, &str> = variables.iter().copied().collect();
    typed.load_with(&|name| variables.get(name).map(OsString::from))
}

fn message(flags: &[&str], variables: &[(&str, &str)], file: &str) -> String {
    load_all(flags, variables, file).unwrap_err().message
}

#[test]
fn defaults_are_those_of_the_interface() {
    let config = load_all(&[], &[], "").unwrap();
    assert!(!config.settings.node.is_empty());
    let expected = Settings {
        node: config.settings.node.clone(),
        ..Settings::default()
    };
    assert_eq!(config.settings, expected);
    assert_eq!(config.log_format, LogFormat::Text);
}

#[test]
fn flag_beats_environment_beats_file() {
    let file = "state-dir = '/file'\nrun-dir = '/file'\nbpffs = '/file'\nsocket = '/file'\n";
    let variables = [("NETBPF_STATE_DIR", "/env"), ("NETBPF_RUN_DIR", "/env")];
    let flags = ["--state-dir", "/flag"];
    let settings = load_all(&flags, &variables, file).unwrap().settings;
    assert_eq!(settings.state_dir, Path::new("/flag"));
    assert_eq!(settings.run_dir, Path::new("/env"));
    assert_eq!(settings.bpffs, Path::new("/file"));
    assert_eq!(settings.socket, Path::new("/file"));

    let variables = [("NETBPF_SOCKET", "/env")];
    let settings = load_all(&[], &variables, file).unwrap().settings;
    assert_eq!(settings.socket, Path::new("/env"));
    let settings = load_all(&["--socket", "/flag"], &variables, file)
        .unwrap()
        .settings;
    assert_eq!(settings.socket, Path::new("/flag"));
}

#[test]
fn empty_variable_is_none() {
    let variables = [
        ("NETBPF_STATE_DIR", ""),
        ("NETBPF_SOCKET", ""),
        ("NETBPF_UPLINK", ""),
    ];
    let settings = load_all(&[], &variables, "state-dir = '/file'")
        .unwrap()
        .settings;
    assert_eq!(settings.state_dir, Path::new("/file"));
    assert_eq!(settings.socket, Settings::default().socket);
    assert!(settings.uplinks.is_empty());
}

#[test]
fn switches_can_be_taken_back() {
    let file = "no-reserve-ports = true\nteardown-on-exit = true\n";
    let settings = load_all(&[], &[], file).unwrap().settings;
    assert!(!settings.reserve_ports && settings.teardown_on_exit);

    let variables = [("NETBPF_NO_RESERVE_PORTS", "0")];
    let flags = ["--teardown-on-exit=false"];
    let settings = load_all(&flags, &variables, file).unwrap().settings;
    assert!(settings.reserve_ports && !settings.teardown_on_exit);

    let flags = ["--no-reserve-ports"];
    let settings = load_all(&flags, &[], "").unwrap().settings;
    assert!(!settings.reserve_ports);
}

#[test]
fn a_kernel_is_pretended_by_its_release() {
    let settings = load_all(&[], &[("NETBPF_AS_KERNEL", "6.5")], "as-kernel = '6.1'\n");
    assert_eq!(settings.unwrap().settings.as_kernel, "6.5".parse().ok());
    for (wrong, why) in [("5.10", "6.1 is the oldest"), ("six", "MAJOR.MINOR")] {
        let variables = [("NETBPF_AS_KERNEL", wrong)];
        let error = load_all(&[], &variables, "").unwrap_err();
        assert!(error.message.contains(why), "{error}");
    }
}

#[test]
fn lists_of_a_higher_place_replace_those_of_a_lower() {
    let file = "uplink = ['eth7']\npool = [\n  '10.0.0.0/8:24',\n  'fd00::/48:64',\n]\n";
    let settings = load_all(&[], &[], file).unwrap().settings;
    assert_eq!(settings.uplinks, ["eth7"]);
    assert_eq!(settings.pools.len(), 2);
    assert_eq!(settings.pools[1].to_string(), "fd00::/48:64");

    let variables = [("NETBPF_UPLINK", "eth0,eth1")];
    let settings = load_all(&[], &variables, file).unwrap().settings;
    assert_eq!(settings.uplinks, ["eth0", "eth1"]);

    let flags = ["--uplink", "a", "--uplink", "b", "--pool", "10.1.0.0/16:20"];
    let settings = load_all(&flags, &variables, file).unwrap().settings;
    assert_eq!(settings.uplinks, ["a", "b"]);
    assert_eq!(settings.pools[0].to_string(), "10.1.0.0/16:20");
}

#[test]
fn everything_else_is_taken_from_anywhere() {
    let file = "log-format = 'json'\nmax-flows = 1000\ncgroup = '/c'\npublish-ip = '192.0.2.1'\n";
    let variables = [("NETBPF_MAX_ENDPOINTS", "7"), ("NETBPF_SOCKET_GROUP", "g")];
    let config = load_all(&["--node", "n1"], &variables, file).unwrap();
    assert_eq!(config.log_format, LogFormat::Json);
    let settings = config.settings;
    assert_eq!((settings.max_flows, settings.max_endpoints), (1000, 7));
    assert_eq!(settings.cgroup.as_deref(), Some(Path::new("/c")));
    assert_eq!(settings.publish_ip, Some("192.0.2.1".parse().unwrap()));
    assert_eq!(
        (settings.node.as_str(), settings.socket_group.as_str()),
        ("n1", "g")
    );
}

#[test]
fn errors_of_the_file_name_file_line_and_key() {
    let rows = [
        (
            "node = 'a'\n\nuplnk = ['eth0']\n",
            ":3: unknown key \"uplnk\": is \"uplink\" meant?",
        ),
        (
            "state_dir = '/a'\n",
            ":1: unknown key \"state_dir\": is \"state-dir\" meant?",
        ),
        ("colour = 'red'\n", ":1: unknown key \"colour\""),
        ("config = '/x'\n", ":1: unknown key \"config\""),
        (
            "max-flows = 'many'\n",
            ":1: max-flows: invalid value 'many'",
        ),
        ("max-flows = 0\n", ":1: max-flows: max-flows 0: at least 1"),
        (
            "max-flows = 33554433\n",
            ":1: max-flows: max-flows 33554433: at most 33554432",
        ),
        ("max-flows = -1\n", ":1: max-flows: invalid value '-1'"),
        ("node = ['a', 'b']\n", ":1: node: one value is wanted"),
        (
            "\nnode = {a = 1}\n",
            ":2: node: a string, number, boolean or list is wanted",
        ),
        ("[daemon]\nnode = 'a'\n", ":1: unknown key \"daemon\""),
        (
            "uplink = [['a']]\n",
            ":1: uplink: a list is of strings and numbers",
        ),
        (
            "# pools\npool = [\n  '10.0.0.0/8:24',\n  '10.0.0.0/8:4',\n]\n",
            ":2: pool: invalid value '10.0.0.0/8:4'",
        ),
        ("node = 'a'\nnode = 'b'\n", ":2: node: duplicate key"),
        ("node 'a'\n", ":1: "),
        (
            "log-format = 'xml'\n",
            ":1: log-format: invalid value 'xml'",
        ),
    ];
    for (file, expected) in rows {
        let message = message(&[], &[], file);
        assert!(message.contains(expected), "{file:?}: {message}");
        assert!(message.contains("netbpf.toml:"), "{message}");
    }
}

#[test]
fn errors_of_the_environment_name_the_variable() {
    let text = message(&[], &[("NETBPF_POOL", "10.0.0.0/8")], "");
    assert!(
        text.starts_with("environment variable NETBPF_POOL: "),
        "{text}"
    );
    assert!(text.contains("10.0.0.0/8"), "{text}");
    let text = message(&[], &[("NETBPF_TEARDOWN_ON_EXIT", "perhaps")], "");
    assert!(text.contains("perhaps"), "{text}");
}

#[test]
fn explicit_file_must_exist() {
    let path = Path::new("/nonexistent/netbpf.toml");
    let typed = Typed {
        file: Some(path.into()),
        ..Typed::default()
    };
    let error = load_from(typed, &[]).unwrap_err();
    assert!(
        error.message.contains("/nonexistent/netbpf.toml"),
        "{error}"
    );
    file::read_if_there(path).unwrap();
}

#[test]
fn later_options_are_refused_from_anywhere() {
    type Row<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str, &'a str);
    let rows: [Row<'_>; 4] = [
        (&["--flannel-prefix", "/a"], &[], "", "--flannel-prefix "),
        (
            &["--dns-upstream=a", "--dns-upstream=b"],
            &[],
            "",
            "--dns-upstream ",
        ),
        (
            &[],
            &[("NETBPF_DOCKER_PLUGIN", "/a")],
            "",
            "environment variable NETBPF_DOCKER_PLUGIN: --docker-plugin ",
        ),
        (
            &[],
            &[],
            "\ndns-upstream = '192.0.2.1'\n",
            "netbpf.toml:2: dns-upstream: --dns-upstream ",
        ),
    ];
    for (flags, variables, file, expected) in rows {
        let error = load_all(flags, variables, file).unwrap_err();
        assert_eq!(error.code, Code::NotImplemented);
        assert!(error.message.contains(expected), "{error}");
        assert!(error.message.contains("is not implemented"), "{error}");
    }
}

/// Every flag of interface.md's daemon line is known in all three places.
#[test]
fn every_flag_is_a_key_and_a_variable() {
    let parser = parser();
    for arg in parser.get_arguments() {
        let key = arg.get_long().unwrap();
        let value = match key {
            "uplink" | "node" | "socket-group" => "a",
            "pool" => "10.0.0.0/8:24",
            "publish-ip" => "192.0.2.1",
            "no-reserve-ports" | "teardown-on-exit" | "xdp" => "true",
            "log-format" => "json",
            "log-level" => "debug",
            "max-flows" | "max-endpoints" | "client-rate" => "7",
            "as-kernel" => "6.1",
            "metrics" => "127.0.0.1:9464",
            "timeout" => "udp=7s",
            "node-ip" => "192.0.2.7",
            "etcd" => "http://192.0.2.1:2379",
            "lease-ttl" => "7s",
            "vxlan-port" => "8472",
            _ => "/a",
        };
        // What makes sense with another one alone.
        let beside: &[&str] = match key {
            "etcd-cert" => &["--etcd-key=/b"],
            "etcd-key" => &["--etcd-cert=/b"],
            "etcd-user" => &["--etcd-password-file=/b"],
            "etcd-password-file" => &["--etcd-user=b"],
            _ => &[],
        };
        let flag = format!("--{key}={value}");
        let by_flag = load_all(&[beside, &[&flag]].concat(), &[], "");
        let by_variable = load_all(beside, &[(&variable(key), value)], "");
        let by_file = load_all(beside, &[], &format!("{key} = '{value}'"));
        for loaded in [by_flag, by_variable, by_file] {
            match loaded {
                Ok(config) => assert_ne!(config.origin(key), &Origin::Default, "{key}"),
                Err(error) => {
                    assert_eq!(error.code, Code::NotImplemented, "{key}: {error}");
                    assert!(arg.is_hide_set() && error.message.contains(key), "{error}");
                }
            }
        }
    }
}

#[test]
fn what_is_shown_is_every_key_with_its_place() {
    let file = "node = 'n'\npool = ['10.0.0.0/8:24']\nuplink = 'eth7'\n";
    let variables = [("NETBPF_UPLINK", "eth0,eth1"), ("NETBPF_MAX_FLOWS", "9")];
    let config = load_all(&["--max-flows=7"], &variables, file).unwrap();
    let shown = config.shown();
    let keys: Vec<String> = shown.iter().map(|s| s.key.clone()).collect();
    let mut flags: Vec<String> = flags().into_iter().filter(|f| f != "config").collect();
    flags.sort();
    assert_eq!(keys, flags);
    let of = |key: &str| {
        let setting = shown.iter().find(|s| s.key == key).unwrap();
        let from = setting.from.clone().unwrap_or_default();
        let from = from.rsplit('/').next().unwrap().to_owned();
        (setting.value.clone(), setting.source, from)
    };
    use crate::model::SettingSource::{Default, Environment, File, Flag};
    assert_eq!(of("max-flows"), (7.into(), Flag, "--max-flows".into()));
    let uplinks = vec!["eth0", "eth1"].into();
    assert_eq!(of("uplink"), (uplinks, Environment, "NETBPF_UPLINK".into()));
    assert_eq!(of("node"), ("n".into(), File, "netbpf.toml:1".into()));
    let pools = vec!["10.0.0.0/8:24"].into();
    assert_eq!(of("pool"), (pools, File, "netbpf.toml:2".into()));
    let state_dir = "/var/lib/netbpf".into();
    assert_eq!(of("state-dir"), (state_dir, Default, String::new()));
    assert!(of("publish-ip").0.is_null());
}

#[test]
fn time_outs_are_set_one_by_one() {
    let file = "timeout = ['tcp-established=3h', 'icmp=90']\n";
    let config = load_all(&[], &[], file).unwrap();
    let expected = Timeouts {
        tcp_established: 10_800,
        icmp: 90,
        ..Timeouts::DEFAULT
    };
    assert_eq!(config.settings.timeouts, expected);
    // The list of one place stands as a whole, like every other.
    let variables = [("NETBPF_TIMEOUT", "udp=150s,udp-answered=5m")];
    let config = load_all(&[], &variables, file).unwrap();
    let expected = Timeouts {
        udp: 150,
        ..Timeouts::DEFAULT
    };
    assert_eq!(config.settings.timeouts, expected);
    let shown = &config.values()["timeout"];
    assert_eq!(shown[3], "udp=150s");
    for (bad, expected) in [
        ("udp", "KIND=TIME"),
        ("tcp=7s", "tcp-opening, tcp-established"),
        ("udp=soon", "10s"),
        ("udp=0", "from 1s"),
        ("udp=500ms", "whole seconds"),
        ("udp=31days", "30days"),
    ] {
        let flag = format!("--timeout={bad}");
        let by_flag = Cli::try_parse_from(["netbpf", "daemon", &flag]).unwrap_err();
        let by_file = message(&[], &[], &format!("timeout = ['{bad}']"));
        for error in [by_flag.to_string(), by_file] {
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }
    let twice = load_all(&["--timeout=udp=7s", "--timeout=udp=8s"], &[], "").unwrap_err();
    assert!(twice.message.contains("twice"), "{twice}");
}

#[test]
fn numbers_of_toml_are_numbers() {
    let config = load_all(&[], &[], "max-flows = 0x10\nmax-endpoints = 1_000\n").unwrap();
    assert_eq!(config.settings.max_flows, 16);
    assert_eq!(config.settings.max_endpoints, 1000);
    assert!(load_all(&[], &[], "max-flows = 1.5\n").is_err());
    let empty = load_all(&[], &[], "uplink = []\n").unwrap();
    assert_eq!(empty.origin("uplink"), &Origin::Default);
}

proptest::proptest! {
    #[test]
    fn any_file_is_read_or_refused_with_its_place(text in "\\PC{0,60}(\n\\PC{0,60}){0,3}") {
        if let Err(error) = file::parse(Path::new("/f.toml"), &text) {
            proptest::prop_assert!(error.message.starts_with("/f.toml:"), "{error}");
        }
    }

    #[test]
    fn what_nearly_fits_is_read_or_refused(
        key in "(node|uplink|pool|max-flows|log-level|etcd|[a-z-]{1,8})",
        value in "('[a-z0-9:./]{0,12}'|[0-9a-fx_.-]{0,8}|true|\\[('[a-z]{0,3}',?){0,3}\\]|\\{\\})",
    ) {
        let text = format!("\n{key} = {value}\n");
        match load_all(&[], &[], &text) {
            Ok(config) => proptest::prop_assert!(config.settings.max_flows > 0),
            Err(error) => proptest::prop_assert!(error.message.contains("netbpf.toml:"), "{error}"),
        }
    }

    #[test]
    fn pools_are_read_as_written(address in proptest::prelude::any::<u32>(), prefix in 8_u8..=24, more in 0_u8..6) {
        let net = ipnet::Ipv4Net::new(address.into(), prefix).unwrap().trunc();
        proptest::prop_assume!(crate::settings::reserved(&net.into()).is_none());
        let text = format!("{net}:{}", prefix + more);
        let pool: crate::settings::Pool = text.parse().unwrap();
        proptest::prop_assert_eq!(pool.to_string(), text);
    }

    #[test]
    fn any_pool_is_read_or_refused(text in "\\PC{0,30}") {
        let _ = text.parse::<crate::settings::Pool>();
        let _ = text.parse::<crate::settings::Release>();
    }
}

#[test]
fn pools_are_checked() {
    for bad in [
        "10.0.0.0/8",
        "10.0.0.0:24",
        "10.0.0.0/8:x",
        "10.0.0.1/8:24",
        "10.0.0.0/8:7",
        "10.0.0.0/8:31",
        "fd00::/48",
        "fd00::/48:127",
        "127.0.0.0/8:24",
        "::ffff:10.0.0.0/104:112",
        "",
    ] {
        let error = bad.parse::<crate::settings::Pool>().unwrap_err();
        assert!(error.contains(&format!("{bad:?}")), "{error}");
    }
    assert_eq!(
        "fd00::/48:64"
            .parse::<crate::settings::Pool>()
            .unwrap()
            .size,
        64
    );
}

#[test]
fn nothing_makes_no_sense() {
    assert!(message(&["--max-flows", "0"], &[], "").contains("max-flows 0"));
    assert!(message(&["--node", ""], &[], "").contains("node"));
}

#[test]
fn etcd_is_taken_from_anywhere() {
    let urls = ["http://10.0.0.1:2379", "http://[fd00::1]:2379"];
    let by_flag = load_all(&["--etcd", &format!("{}/,{}", urls[0], urls[1])], &[], "");
    let by_flags = load_all(&["--etcd", urls[0], "--etcd", urls[1]], &[], "");
    let by_variable = load_all(&[], &[("NETBPF_ETCD", &urls.join(","))], "");
    let by_file = load_all(&[], &[], &format!("etcd = ['{}', '{}']", urls[0], urls[1]));
    for loaded in [by_flag, by_flags, by_variable, by_file] {
        assert_eq!(loaded.unwrap().settings.etcd.endpoints, urls);
    }
    let file = "lease-ttl = 30\nvxlan-port = 8472\nnode-ip = 'fd00::7'\netcd-prefix = '/a/b/'\n\
                etcd-user = 'u'\netcd-password-file = '/p'\n";
    let config = load_all(&[], &[], file).unwrap();
    let values = config.values();
    for (key, value) in [
        ("lease-ttl", "30s"),
        ("node-ip", "fd00::7"),
        ("etcd-prefix", "/a/b"),
        ("etcd-user", "u"),
        ("etcd-password-file", "/p"),
    ] {
        assert_eq!(values[key], value, "{key}");
    }
    assert_eq!(values["vxlan-port"], 8472);
    assert!(values["etcd"].is_null());
    // None of it changes while the daemon runs.
    let (now, later) = load_all(&[], &[], "").unwrap().changes(&config);
    assert!(now.is_empty());
    assert_eq!(later.len(), 6);
}

#[test]
fn what_makes_no_sense_of_etcd_is_refused_with_its_value() {
    let https = "--etcd=https://a:1";
    let rows: [(&[&str], &str); 17] = [
        (&["--etcd=10.0.0.1:2379"], "etcd \"10.0.0.1:2379\": "),
        (&["--etcd=unix:///a"], "etcd \"unix:///a\": "),
        (&["--etcd=ftp://a:1"], "http://HOST:PORT"),
        (&["--etcd=http://a"], "etcd \"http://a\": a port is missing"),
        (&["--etcd=http://a:0"], "a port is missing"),
        (&["--etcd=http://a:1/b"], "no path"),
        (&["--etcd=http://u:secret@a:1"], "user and password"),
        (&["--etcd-prefix=a"], "etcd-prefix \"a\": it begins with /"),
        (&["--etcd-prefix=/"], "etcd-prefix \"/\": "),
        (&["--lease-ttl=1s"], "lease-ttl \"1s\": "),
        (&["--lease-ttl=2500ms"], "whole seconds"),
        (&["--node-ip=127.0.0.1"], "node-ip \"127.0.0.1\": "),
        (&["--node-ip=a"], "node-ip \"a\": this is no IP address"),
        (&["--vxlan-port=0"], "vxlan-port \"0\": "),
        (
            &[https, "--etcd-cert=/c"],
            "etcd-cert \"/c\": etcd-key is missing",
        ),
        (
            &["--etcd-user=u"],
            "etcd-user \"u\": etcd-password-file is missing",
        ),
        (
            &["--etcd=https://a:1,http://b:1", "--etcd-cacert=/c"],
            "etcd-cacert \"/c\": etcd \"http://b:1\" is no https",
        ),
    ];
    for (flags, expected) in rows {
        let line = ["netbpf", "daemon"].iter().chain(flags);
        let error = match Cli::try_parse_from(line) {
            Err(error) => error.to_string(),
            Ok(_) => message(flags, &[], ""),
        };
        assert!(error.contains(expected), "{flags:?}: {error}");
    }
    let file = message(&[], &[], "etcd-key = '/k'\n");
    assert!(
        file.contains(":1: etcd-key: etcd-key \"/k\": etcd-cert is missing"),
        "{file}"
    );
}
