use std::os::unix::fs::PermissionsExt;

use super::{table::Versioned, *};
use crate::{
    datapath::{Copies, RecordCopy},
    model::{Driver, SubnetInfo},
    store::OverlayRecord,
    sys::netns::NamespaceId,
};

fn network(name: &str) -> NetworkRecord {
    NetworkRecord {
        index: 7,
        name: name.into(),
        driver: Driver::Bridge,
        subnets: Vec::new(),
        mtu: None,
        internal: false,
        icc: true,
        masquerade: true,
        overlay: None,
        labels: Default::default(),
        created_at: "2026-01-01T00:00:00Z".into(),
    }
}

/// An endpoint as good as any.
pub(crate) fn endpoint(index: u32) -> EndpointRecord {
    EndpointRecord {
        index,
        serial: 1,
        state: EndpointState::Attaching,
        name: "web".into(),
        engine: None,
        network: "front".into(),
        network_index: 7,
        netns: "/run/netns/web".into(),
        namespace: NamespaceId {
            device: 4,
            inode: 0xf000_0001,
        },
        ifname: "eth0".into(),
        host_ifname: "nb00000001".into(),
        host_ifindex: 0,
        mac: [2, 0x42, 10, 0, 0, 2],
        ipv4: Some("10.0.0.2/24".parse().unwrap()),
        ipv6: None,
        automatic4: true,
        automatic6: false,
        gateway: Some("10.0.0.1".parse().unwrap()),
        gateway6: None,
        mtu: 1500,
        default4: false,
        default6: false,
        rules: false,
        aliases: vec![],
        links: vec![],
        labels: Default::default(),
        ports: vec![],
        draining: vec![],
        created_at: "2026-01-01T00:00:00Z".into(),
    }
}

/// The kernel keeps nothing.
fn none() -> crate::error::Result<Copies> {
    Ok(Copies::default())
}

struct Dirs {
    dir: tempfile::TempDir,
}

impl Dirs {
    fn new() -> Dirs {
        Dirs {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn open(&self, boot: &str) -> Result<Store> {
        Store::open(&self.state(), &self.dir.path().join("run"), boot, &none)
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }
}

#[test]
fn what_was_put_is_there_after_reopening() {
    let dirs = Dirs::new();
    {
        let store = dirs.open("a").unwrap();
        store.put_network(&network("front")).unwrap();
        store.put_endpoint(&endpoint(1)).unwrap();
        store.put_meta(Meta::LastNetwork, &7_u32).unwrap();
    }
    let store = dirs.open("a").unwrap();
    assert_eq!(store.networks().unwrap(), [network("front")]);
    assert_eq!(store.endpoints().unwrap(), [endpoint(1)]);
    assert_eq!(store.meta::<u32>(Meta::LastNetwork).unwrap(), Some(7));
    store.remove_endpoint(1).unwrap();
    assert!(store.endpoints().unwrap().is_empty());
}

#[test]
fn endpoints_end_with_the_boot_and_networks_do_not() {
    let dirs = Dirs::new();
    {
        let store = dirs.open("a").unwrap();
        store.put_network(&network("front")).unwrap();
        store.put_endpoint(&endpoint(1)).unwrap();
    }
    let store = dirs.open("b").unwrap();
    assert_eq!(store.networks().unwrap().len(), 1);
    assert!(store.endpoints().unwrap().is_empty());
    drop(store);
    let store = dirs.open("a").unwrap();
    assert!(store.endpoints().unwrap().is_empty());
}

#[test]
fn a_second_daemon_is_refused_by_the_directorys_name() {
    let dirs = Dirs::new();
    let _first = dirs.open("a").unwrap();
    let error = Error::from(dirs.open("a").unwrap_err());
    assert_eq!(error.code, Code::Conflict);
    let state = dirs.state().display().to_string();
    assert!(error.message.contains(&state), "{}", error.message);
}

#[test]
fn damage_is_called_so_with_the_files_name() {
    let dirs = Dirs::new();
    fs::create_dir_all(dirs.state()).unwrap();
    let file = dirs.state().join("netbpf.redb");
    for content in [&b"not a database at all"[..], &[0x5a; 8192]] {
        fs::write(&file, content).unwrap();
        let error = Error::from(dirs.open("a").unwrap_err());
        assert_eq!(error.code, Code::StoreCorrupt, "{}", error.message);
        assert!(error.message.contains("netbpf.redb"), "{}", error.message);
    }
}

#[test]
fn a_record_of_another_version_is_not_guessed_at() {
    let dirs = Dirs::new();
    let store = dirs.open("a").unwrap();
    store
        .durable
        .put(NETWORKS, "x", br#"{"version":99}"#)
        .unwrap();
    let error = Error::from(store.networks().unwrap_err());
    assert_eq!(error.code, Code::StoreCorrupt);
    assert!(error.message.contains("99"), "{}", error.message);
}

#[test]
fn a_record_that_cannot_be_is_damage() {
    let dirs = Dirs::new();
    let store = dirs.open("a").unwrap();
    let port = |host_port, host_port_end, container_port| PortRecord {
        slot: 0,
        protocol: crate::model::Protocol::Tcp,
        host_ip: None,
        host_port,
        host_port_end,
        container_port,
        allow: vec![],
        weight: 1,
        affinity: false,
        unheld: false,
    };
    let bytes = |record: &EndpointRecord| {
        let versioned = Versioned {
            version: VERSION,
            record,
        };
        serde_json::to_vec(&versioned).unwrap()
    };
    for (first, last, container) in [(90, 80, 80), (0, 0, 80), (80, 80, 0), (80, 90, 65530)] {
        let ports = vec![port(first, last, container)];
        let record = EndpointRecord {
            ports,
            ..endpoint(1)
        };
        let said = format!("endpoint web: {first}-{last}:{container} is no range");
        let error = store.put_endpoint(&record).unwrap_err();
        assert!(error.to_string().contains(&said), "{error}");
        assert_eq!(store.endpoints().unwrap(), []);

        store.volatile.put(ENDPOINTS, 1, &bytes(&record)).unwrap();
        let error = store.endpoints().unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains(&said), "{error}");
        store.remove_endpoint(1).unwrap();
    }
    let mut record = network("front");
    record.subnets = vec![SubnetInfo {
        subnet: "10.0.0.0/24".parse().unwrap(),
        gateway: "10.0.1.1".parse().unwrap(),
        ip_range: None,
    }];
    let error = store.put_network(&record).unwrap_err();
    assert_eq!(Error::from(error).code, Code::Internal);
    // What others say of a network of the cluster is refused before it comes here, and was
    // not by versions before.
    record.overlay = Some(OverlayRecord {
        vni: 9,
        scope: 1,
        shadowed: false,
        blocks: Vec::new(),
    });
    store.put_network(&record).unwrap();
    assert_eq!(store.networks().unwrap(), [record]);
}

/// The process is gone between two commits without a word, as by kill -9.
#[test]
fn endpoints_survive_a_killed_process() {
    const CHILD: &str = "NETBPF_TEST_STORE_CHILD";
    if let Ok(dir) = std::env::var(CHILD) {
        let dir = Path::new(&dir);
        let store = Store::open(&dir.join("state"), &dir.join("run"), "a", &none).unwrap();
        for index in 1..=50 {
            store.put_endpoint(&endpoint(index)).unwrap();
        }
        let own = std::process::id().to_string();
        let _ = std::process::Command::new("kill")
            .args(["-9", &own])
            .status();
        unreachable!("killed");
    }
    let dirs = Dirs::new();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::tests::endpoints_survive_a_killed_process",
        ])
        .env(CHILD, dirs.dir.path())
        .status()
        .unwrap();
    assert!(!status.success());
    let store = dirs.open("a").unwrap();
    assert_eq!(store.endpoints().unwrap().len(), 50);
}

#[test]
fn nothing_is_made_to_look_at_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let (state, run) = (dir.path().join("state"), dir.path().join("run"));
    assert!(
        Store::open_existing(&state, &run, "boot", &none)
            .unwrap()
            .is_none()
    );
    assert!(!state.exists() && !run.exists());

    let store = Store::open(&state, &run, "boot", &none).unwrap();
    store.put_network(&network("front")).unwrap();
    store.put_endpoint(&endpoint(1)).unwrap();
    drop(store);
    for (path, mode) in [
        (state.clone(), 0o700),
        (state.join("netbpf.redb"), 0o600),
        (run.join("endpoints-boot.redb"), 0o600),
    ] {
        let found = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{}", path.display());
    }
    let found = Store::open_existing(&state, &run, "boot", &none)
        .unwrap()
        .unwrap();
    assert_eq!(found.endpoints().unwrap().len(), 1);
    drop(found);
    let found = Store::open_existing(&state, &run, "other", &none)
        .unwrap()
        .unwrap();
    assert_eq!(found.networks().unwrap().len(), 1);
    assert_eq!(found.endpoints().unwrap().len(), 0);
    assert!(!run.join("endpoints-other.redb").exists());
}

/// A copy as the kernel keeps it.
fn copy(table: u32, key: &[u8], record: &[u8]) -> RecordCopy {
    RecordCopy {
        table,
        key: key.to_vec(),
        record: record.to_vec(),
    }
}

#[test]
fn a_file_that_is_damaged_or_lost_is_made_anew_of_copies() {
    let dirs = Dirs::new();
    let file = dirs.state().join("netbpf.redb");
    let record = |network: &NetworkRecord| {
        let versioned = Versioned {
            version: VERSION,
            record: network,
        };
        serde_json::to_vec(&versioned).unwrap()
    };
    let whole = [
        copy(1, b"front", &record(&network("front"))),
        copy(3, b"last_network", b"7"),
        // Of the other file, which is there.
        copy(2, &9_u32.to_le_bytes(), b"{}"),
    ];
    let store = dirs.open("a").unwrap();
    store.put_meta(Meta::Bpffs, &"here").unwrap();
    drop(store);
    let open_with = |copies: &[RecordCopy], complete| {
        let read = || {
            Ok(Copies {
                records: copies.to_vec(),
                complete,
                ..Copies::default()
            })
        };
        Store::open(&dirs.state(), &dirs.dir.path().join("run"), "a", &read)
    };
    let open = |copies: &[RecordCopy]| open_with(copies, true);
    let damages: [(&str, &dyn Fn()); 6] = [
        ("corrupt", &|| fs::write(&file, [0x5a; 8192]).unwrap()),
        ("corrupt", &|| fs::write(&file, b"short").unwrap()),
        ("corrupt", &|| {
            let store = dirs.open("a").unwrap();
            store.durable.put(NETWORKS, "x", b"no JSON").unwrap();
        }),
        ("lost", &|| fs::remove_file(&file).unwrap()),
        ("lost", &|| fs::write(&file, b"").unwrap()),
        // As a start leaves it that dies before it has restored anything.
        ("lost", &|| {
            fs::remove_file(&file).unwrap();
            drop(dirs.open("a").unwrap());
        }),
    ];
    for (times, (what, damage)) in damages.iter().enumerate() {
        damage();
        let store = open(&whole).unwrap();
        assert_eq!(store.networks().unwrap(), [network("front")], "{what}");
        assert_eq!(store.meta(Meta::LastNetwork).unwrap(), Some(7_u32));
        let [restored] = store.restored() else {
            panic!("{what}: {:?}", store.restored());
        };
        let says = [what, "1 networks"];
        assert!(
            says.iter().all(|said| restored.contains(said)),
            "{restored:?}"
        );
        if *what == "corrupt" {
            let aside = match times {
                0 => "netbpf.redb.corrupt".to_owned(),
                n => format!("netbpf.redb.corrupt-{n}"),
            };
            assert!(restored.contains(&aside), "{restored:?}");
            assert!(dirs.state().join(aside).exists());
        }
        drop(store);
        assert!(open(&whole).unwrap().restored().is_empty());
    }

    // Of some of what there was nothing is made.
    fs::remove_file(&file).unwrap();
    let error = Error::from(open_with(&whole, false).unwrap_err());
    assert!(
        error.message.contains("not a copy of each record"),
        "{}",
        error.message
    );

    // Nor where some of it is not what was written.
    for kept in [whole.to_vec(), Vec::new()] {
        let damaged = || {
            Ok(Copies {
                records: kept.clone(),
                damaged: vec![1, 2, 1],
                complete: true,
                ..Copies::default()
            })
        };
        let opened = Store::open(&dirs.state(), &dirs.dir.path().join("run"), "a", &damaged);
        let error = Error::from(opened.unwrap_err());
        assert_eq!(error.code, Code::StoreCorrupt);
        let says = "so are 2 of the copies";
        assert!(error.message.contains(says), "{}", error.message);
    }

    // Of what cannot be read nothing is thrown away: neither the file nor the copies.
    for (record, says) in [(&b"{"[..], "corrupt"), (br#"{"version":99}"#, "99")] {
        let torn = [whole[0].clone(), copy(1, b"torn", record)];
        fs::write(&file, b"short").unwrap();
        let error = Error::from(open(&torn).unwrap_err());
        assert_eq!(error.code, Code::StoreCorrupt);
        assert!(error.message.contains(says), "{}", error.message);
        assert_eq!(fs::read(&file).unwrap(), b"short");
        fs::remove_file(&file).unwrap();
        open(&torn).unwrap_err();
        assert!(!file.exists());
    }

    // What a later version has written is no damage.
    let store = dirs.open("a").unwrap();
    store
        .durable
        .put(NETWORKS, "x", br#"{"version":99}"#)
        .unwrap();
    drop(store);
    assert!(matches!(
        open(&whole),
        Err(StoreError::Version { found: 99, .. })
    ));
}

/// A sector of another file, or of none, wherever it is: all is there in the end.
#[test]
fn wherever_a_file_is_damaged_nothing_is_lost() {
    let dirs = Dirs::new();
    let file = dirs.state().join("netbpf.redb");
    let names: Vec<String> = (0..20).map(|n| format!("net{n:02}")).collect();
    let store = dirs.open("a").unwrap();
    for name in &names {
        store.put_network(&network(name)).unwrap();
    }
    drop(store);
    let sound = fs::read(&file).unwrap();
    let copies: Vec<RecordCopy> = names
        .iter()
        .map(|name| {
            let versioned = Versioned {
                version: VERSION,
                record: &network(name),
            };
            copy(1, name.as_bytes(), &serde_json::to_vec(&versioned).unwrap())
        })
        .collect();
    let read = || {
        Ok(Copies {
            records: copies.clone(),
            complete: true,
            ..Copies::default()
        })
    };
    let mut restored = 0;
    // The first sector says what the rest is; what is written in order is at the front.
    let sectors = (0..48).chain((48..sound.len() / 512).step_by(97));
    for sector in sectors {
        for filling in [0, 0xff] {
            let mut damaged = sound.clone();
            damaged[sector * 512..][..512].fill(filling);
            fs::write(&file, &damaged).unwrap();
            let store = Store::open(&dirs.state(), &dirs.dir.path().join("run"), "a", &read);
            let store = store.unwrap_or_else(|e| panic!("sector {sector}, {filling}: {e}"));
            let found = store.networks().unwrap();
            let found: Vec<&str> = found.iter().map(|n| n.name.as_str()).collect();
            assert_eq!(found, names, "sector {sector}, {filling}");
            restored += store.restored().len();
        }
    }
    assert!(restored > 4, "{restored} of them were noticed");
}
