//! What people run, through masquerade and published ports: port scans, hping3, DNS, QUIC.
//!
//! ```text
//!   web 10.10.1.x ── host 192.0.2.1 :8080 :5300 ──── 192.0.2.2 client
//! ```

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use netbpf_tests::lab::{
    Background, Container, Family, Http, Namespace, Output, SOON, Street, UdpEcho, has_tools,
    names::{CLIENT, HOST},
    street_with_networks, within,
};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime,
    rustls::{
        RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};

/// A street with `web`, of whose published ports one of each protocol leads to nobody. What
/// `web` serves, the client does, too.
struct Shop {
    street: Street,
    web: Container,
    _http: [Http; 2],
    _udp: [UdpEcho; 2],
}

impl Shop {
    fn open(test: &str) -> Shop {
        let street = street_with_networks(test, &[]);
        let ports = ["8080:80", "8081:81", "5300:53/udp", "5301:54/udp"];
        let flags = ports.map(|port| ["-p", port]);
        let web = street.front("web", &flags.concat());
        let spaces = [&*web, &street.client];
        Shop {
            _http: spaces.map(|space| Http::start(space, 80)),
            _udp: spaces.map(|space| UdpEcho::start(space, 53)),
            street,
            web,
        }
    }
}

/// Whom to scan or flood, from where, and the ports there: TCP and UDP, open and closed.
type Target<'a> = (&'a Namespace, IpAddr, [u16; 2], [u16; 2]);

fn targets(shop: &Shop, family: Family) -> [Target<'_>; 2] {
    let client = &shop.street.client;
    [
        (&shop.web, family.ip(CLIENT), [80, 81], [53, 54]),
        (client, family.ip(HOST), [8080, 8081], [5300, 5301]),
    ]
}

#[test]
fn nmap_finds_what_is_open_and_what_is_closed() {
    let test = "nmap_finds";
    if !has_tools(test, &["nmap"]) {
        return;
    }
    let shop = Shop::open(test);
    let drops = shop.street.host.drops();
    for family in Family::BOTH {
        for (from, to, tcp, udp) in targets(&shop, family) {
            for (scan, kind, ports) in [
                ("-sT", "tcp", tcp),
                ("-sS", "tcp", tcp),
                ("-sU", "udp", udp),
            ] {
                let (list, to) = (ports.map(|port| port.to_string()).join(","), to.to_string());
                // Kernels limit the rate of their errors, which say what is closed.
                let mut argv = vec!["nmap", "-Pn", "-n", "--max-retries", "3", "-oG", "-"];
                if family == Family::V6 {
                    argv.push("-6");
                }
                argv.extend([scan, "-p", &list, &to]);
                let output = from.run(&argv).timeout(Duration::from_secs(60)).ok();
                let [open, closed] = ports;
                for wanted in [
                    format!("{open}/open/{kind}/"),
                    format!("{closed}/closed/{kind}/"),
                ] {
                    assert!(
                        output.contains(&wanted),
                        "{argv:?}: no {wanted} in\n{output}"
                    );
                }
            }
        }
    }
    drops.none();
}

#[test]
fn hping3_counts_as_many_answers_as_questions() {
    let test = "hping3_counts";
    if !has_tools(test, &["hping3"]) {
        return;
    }
    let shop = Shop::open(test);
    let drops = shop.street.host.drops();
    // It does not speak IPv6.
    for (from, to, tcp, udp) in targets(&shop, Family::V4) {
        let to = to.to_string();
        let [open, closed] = tcp.map(|port| port.to_string());
        let udp = udp[0].to_string();
        let rows: [(&[&str], &str); 4] = [
            (&["-S", "-p", &open], "flags=SA"),
            (&["-S", "-p", &closed], "flags=RA"),
            (&["--udp", "-p", &udp], "len="),
            (&["--icmp"], "icmp_seq="),
        ];
        for (arguments, answer) in rows {
            let mut argv = vec!["hping3", "-n", "-c", "20", "-i", "u10000"];
            argv.extend(arguments);
            argv.push(&to);
            let mut output = from.run(&argv).output();
            let is_whole = |output: &Output| {
                let wanted = "20 packets transmitted, 20 packets received, 0% packet loss";
                output.stdout.matches(answer).count() == 20 && output.stderr.contains(wanted)
            };
            // It waits a second for the last answer: where there is much to do, that is
            // too little now and then.
            for _ in 0..2 {
                if !is_whole(&output) {
                    output = from.run(&argv).output();
                }
            }
            assert!(is_whole(&output), "{answer}: {output}");
        }
    }
    drops.none();
}

/// dnsmasq, which knows `web.test` and the long `big.test`.
fn name_server(space: &Namespace) -> Background {
    // A string of a TXT record is 255 bytes at most.
    let text = vec!["x".repeat(200); 12].join(",");
    let big = format!("--txt-record=big.test,{text}");
    let argv = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        "--no-resolv",
        "--no-hosts",
        "--edns-packet-max=4096",
        "--host-record=web.test,203.0.113.80,2001:db8:3::80",
        &big,
    ];
    space.run(&argv).timeout(Duration::from_secs(60)).spawn()
}

#[test]
fn names_are_resolved_by_udp_and_tcp() {
    let test = "names_are_resolved";
    if !has_tools(test, &["dig", "dnsmasq"]) {
        return;
    }
    let street = street_with_networks(test, &[]);
    let web = street.front("web", &["-p", "5300:53/udp", "-p", "5300:53"]);
    let spaces = [&*web, &street.client];
    let _servers = spaces.map(name_server);
    for space in spaces {
        within(SOON, "the name server listens", || {
            let asks = [
                "dig",
                "@127.0.0.1",
                "web.test",
                "+short",
                "+tries=1",
                "+time=1",
            ];
            space.run(&asks).output().status.success()
        });
    }
    let drops = street.host.drops();
    for family in Family::BOTH {
        let rows: [(&Namespace, IpAddr, &str); 2] = [
            (&web, family.ip(CLIENT), "53"),
            (&street.client, family.ip(HOST), "5300"),
        ];
        for (from, to, port) in rows {
            let server = format!("@{to}");
            let dig = |question: &[&str]| {
                let mut argv = vec!["dig", &server, "-p", port, "+tries=1", "+time=8"];
                argv.extend(question);
                // A question by UDP, and after it one by TCP.
                from.run(&argv).timeout(Duration::from_secs(20)).ok()
            };
            for transport in ["+notcp", "+tcp"] {
                for (kind, address) in [("A", "203.0.113.80"), ("AAAA", "2001:db8:3::80")] {
                    let answer = dig(&["web.test", kind, transport]);
                    assert!(answer.contains(address), "{answer}");
                }
            }
            // In fragments; cut off, and then by TCP; by TCP at once.
            for (how, transport) in [
                (["+bufsize=4096", "+ignore"], "(UDP)"),
                (["+bufsize=512", "+noignore"], "(TCP)"),
                (["+bufsize=512", "+tcp"], "(TCP)"),
            ] {
                let answer = dig(&[&["big.test", "TXT"][..], &how].concat());
                assert_eq!(answer.matches(&"x".repeat(200)).count(), 12, "{answer}");
                assert!(answer.contains(transport), "{answer}");
            }
        }
    }
    drops.none();
}

/// A QUIC endpoint on a port of an address, as server or not.
fn endpoint(space: &Namespace, at: SocketAddr, server: Option<ServerConfig>) -> Endpoint {
    let socket = space.bind_udp(at);
    Endpoint::new(
        EndpointConfig::default(),
        server,
        socket,
        Arc::new(TokioRuntime),
    )
    .expect("an endpoint")
}

/// A certificate for `web.test`: what the server and the client have of it.
fn certificate() -> (ServerConfig, ClientConfig) {
    let made = rcgen::generate_simple_self_signed(["web.test".to_owned()]).expect("a certificate");
    let chain: CertificateDer = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let server = ServerConfig::with_single_cert(vec![chain.clone()], key).expect("a server");
    let mut roots = RootCertStore::empty();
    roots.add(chain).expect("a root");
    let client = ClientConfig::with_root_certificates(Arc::new(roots)).expect("a client");
    (server, client)
}

/// Sends back what comes by each stream.
async fn serve(connection: Connection) {
    while let Ok((mut answer, mut question)) = connection.accept_bi().await {
        let all = question.read_to_end(BIG).await.expect("a question");
        answer.write_all(&all).await.expect("an answer");
        answer.finish().expect("once");
    }
}

const BIG: usize = 1 << 20;

/// 1 MiB there and back.
async fn echoes(connection: &Connection) {
    let (mut question, mut answer) = connection.open_bi().await.expect("a stream");
    let sent = vec![b'x'; BIG];
    let sending = async {
        question.write_all(&sent).await.expect("sent");
        question.finish().expect("once");
    };
    let (_, back) = tokio::join!(sending, answer.read_to_end(BIG));
    assert!(back.expect("comes back") == sent);
}

#[test]
fn quic_passes_and_goes_on_from_another_port() {
    let street = street_with_networks("quic_passes", &[]);
    let web = street.front("web", &["-p", "8443:443/udp"]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (of_server, of_client) = certificate();
    let drops = street.host.drops();
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        let any = SocketAddr::new(family.any(), 0);
        // Asker, asked, answerer, and as whom it sees the asker.
        let rows: [(&Namespace, SocketAddr, &Namespace, SocketAddr, IpAddr); 2] = [
            (
                &web,
                SocketAddr::new(client, 443),
                &street.client,
                SocketAddr::new(client, 443),
                host,
            ),
            (
                &street.client,
                SocketAddr::new(host, 8443),
                &web,
                SocketAddr::new(web.addr(family), 443),
                client,
            ),
        ];
        for (asker, to, answerer, at, seen) in rows {
            let talk = async {
                let server = endpoint(answerer, at, Some(of_server.clone()));
                let user = endpoint(asker, any, None);
                let connecting = user.connect_with(of_client.clone(), to, "web.test");
                let connecting = connecting.expect("an address");
                let accepting = async { server.accept().await.expect("open").await };
                let (ours, theirs) = tokio::join!(connecting, accepting);
                let (ours, theirs) = (ours.expect("connected"), theirs.expect("connected"));
                tokio::spawn(serve(theirs.clone()));
                echoes(&ours).await;
                let first = theirs.remote_address();
                assert_eq!(first.ip(), seen);
                // The same connection from a new socket (RFC 9000 section 9).
                user.rebind(asker.bind_udp(any)).expect("another port");
                echoes(&ours).await;
                let second = theirs.remote_address();
                assert_eq!(second.ip(), seen);
                assert_ne!(second.port(), first.port(), "it has not moved");
                ours.close(0_u8.into(), b"done");
                user.wait_idle().await;
            };
            let limit = Duration::from_secs(15);
            let done = runtime.block_on(async { tokio::time::timeout(limit, talk).await });
            done.unwrap_or_else(|_| panic!("{to} from {}: not within {limit:?}", asker.role()));
        }
    }
    drops.none();
}
