//! etcd asks for certificates, users and passwords.

use std::{fs, path::Path};

use netbpf::cluster::{Cluster, Link, Options, Overlap, Vni};
use netbpf_tests::{
    lab::{Etcd, EtcdPrograms, EtcdTls, Lab, within},
    nodes::{LONG, is_made, me, network, options, start},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// An authority, and what it has signed for etcd and for nodes.
fn certificates(dir: &Path) -> EtcdTls {
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_cert = authority.self_signed(&authority_key).expect("signed");
    let issuer = Issuer::new(authority, authority_key);
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).expect("write it");
        path
    };
    let signed = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).expect("names");
        let cert = params.signed_by(&key, &issuer).expect("signed");
        (
            write(&format!("{name}.pem"), &cert.pem()),
            write(&format!("{name}.key"), &key.serialize_pem()),
        )
    };
    let (server_cert, server_key) = signed("server");
    let (client_cert, client_key) = signed("client");
    EtcdTls {
        ca: write("ca.pem", &authority_cert.pem()),
        server_cert,
        server_key,
        client_cert,
        client_key,
    }
}

#[test]
fn certificates_are_shown_and_asked_for() {
    let test = "certificates_are_shown_and_asked_for";
    for programs in EtcdPrograms::each(test) {
        certified(test, &programs);
    }
}

fn certified(test: &str, programs: &EtcdPrograms) {
    let lab = Lab::new(test);
    let space = lab.space("etcd");
    let tls = certificates(lab.dir());
    let etcd = Etcd::start_secure(programs, &space, lab.dir(), "127.0.0.1", &tls);
    let runtime = space.runtime();
    let good = Options {
        cacert: Some(tls.ca.clone()),
        cert: Some(tls.client_cert.clone()),
        key: Some(tls.client_key.clone()),
        ..options(&[etcd.url()])
    };
    let one = start(&runtime, me("n1"), good.clone());
    let wanted = network("front", "10.7.0.0/16");
    let made = one.create_network(&wanted, Vni::Free, Overlap::Refuse);
    runtime.block_on(made).expect("a network");

    // Nothing comes of it without a certificate, or with one of nobody that we trust.
    let strangers = lab.dir().join("strangers");
    fs::create_dir(&strangers).expect("a directory");
    let other = certificates(&strangers);
    for bad in [
        Options {
            cert: None,
            key: None,
            ..good.clone()
        },
        Options {
            cacert: Some(other.ca.clone()),
            ..good.clone()
        },
        Options {
            cacert: None,
            ..good.clone()
        },
    ] {
        let node = Cluster::start(runtime.handle(), bad, me("n2")).expect("readable files");
        within(LONG, "it is told", || {
            matches!(node.state().link, Link::Away { .. })
        });
        let why = node.state().last_error.expect("a reason");
        println!("{why}");
        assert!(why.contains(&etcd.url()), "{why}");
    }

    // What cannot work is refused before the start.
    let broken = lab.dir().join("broken.pem");
    fs::write(&broken, "no certificate").expect("write it");
    for (bad, expected) in [
        (
            Options {
                cacert: Some("/nonexistent/ca.pem".into()),
                ..good.clone()
            },
            "etcd-cacert \"/nonexistent/ca.pem\": No such file",
        ),
        (
            Options {
                key: Some(broken.clone()),
                ..good.clone()
            },
            "etcd \"https://127.0.0.1:2379\"",
        ),
        (Options { key: None, ..good }, "etcd-key is missing"),
    ] {
        let error = Cluster::start(runtime.handle(), bad, me("n2"))
            .map(drop)
            .expect_err("bad");
        println!("{error}");
        assert!(error.message.contains(expected), "{error}");
    }
}

#[test]
fn a_user_shows_the_password_again_when_etcd_has_forgotten() {
    let test = "a_user_shows_the_password_again_when_etcd_has_forgotten";
    for programs in EtcdPrograms::each(test) {
        with_password(test, &programs);
    }
}

fn with_password(test: &str, programs: &EtcdPrograms) {
    let lab = Lab::new(test);
    let space = lab.space("etcd");
    let etcd = Etcd::start_in(programs, &space, lab.dir(), "127.0.0.1");
    let runtime = space.runtime();
    for arguments in [
        &["role", "add", "netbpf"][..],
        &[
            "role",
            "grant-permission",
            "netbpf",
            "--prefix=true",
            "readwrite",
            "/netbpf/",
        ],
        &["user", "add", "root:top"],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "nodes:secret"],
        &["user", "grant-role", "nodes", "netbpf"],
        &["auth", "enable"],
    ] {
        etcd.ctl(arguments);
    }
    etcd.use_user("root:top");
    let file = lab.dir().join("password");
    fs::write(&file, "wrong\n").expect("write it");
    let with_user = Options {
        user: Some("nodes".into()),
        password_file: Some(file.clone()),
        ..options(&[etcd.url()])
    };
    let node = Cluster::start(runtime.handle(), with_user, me("n1")).expect("good options");
    let told = |why: &str| {
        node.state()
            .last_error
            .is_some_and(|error| error.contains(why))
    };
    within(LONG, "the password is refused", || {
        told("authentication failed")
    });
    assert!(!told("wrong"));
    // The file is read again for each connection.
    fs::write(&file, "secret\n").expect("write it");
    within(LONG, "it is let in", || node.state().is_connected());
    let make = |name: &str, subnet: &str| {
        let wanted = network(name, subnet);
        let made = node.create_network(&wanted, Vni::Free, Overlap::Refuse);
        runtime.block_on(made)
    };
    make("front", "10.7.0.0/16").expect("a network");
    // A token is of one state of all users and roles.
    etcd.ctl(&["user", "add", "another:secret"]);
    make("side", "10.9.0.0/16").expect("a new token");
    // Tokens are in etcd's memory alone.
    etcd.kill();
    etcd.restart();
    let made = || is_made(&make("back", "10.8.0.0/16"));
    within(LONG, "it is let in again", made);
    within(LONG, "it sees what it made", || {
        node.view().networks.contains_key("back")
    });
}
