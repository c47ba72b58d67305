//! Plug-ins of CNI, called one after the other as libcni does: netbpf's own, and the
//! reference plug-ins `bridge`, `host-local` and `portmap` that most runtimes come with.

use std::{
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    clients::{Debian, Packages},
    lab::{Host, Lab, Namespace, binary},
};

/// A chain of plug-ins for one network of one host.
pub struct Chain {
    host: Namespace,
    /// Where they look for each other.
    directory: PathBuf,
    plugins: Vec<Value>,
}

impl Chain {
    /// netbpf-cni alone: the network is there.
    pub fn netbpf(lab: &Lab, host: &Host, network: &str) -> Chain {
        let directory = lab.dir().join("netbpf-plugin");
        std::fs::create_dir_all(&directory).expect("make a directory");
        symlink(binary(), directory.join("netbpf-cni")).expect("link the plug-in");
        Chain {
            host: Namespace::clone(host),
            directory,
            plugins: vec![json!({
                "cniVersion": "1.0.0",
                "name": network,
                "type": "netbpf-cni",
                "socket": host.socket(),
                "runtimeConfig": ports(8080),
            })],
        }
    }

    /// bridge and portmap with both families, in a host of their own. None where they are
    /// not unpacked.
    pub fn reference(lab: &Lab) -> Option<Chain> {
        let packages = Packages::find("the benchmark", Debian::Own)?;
        let host = lab.space("bridge-host");
        host.ip("link set lo up");
        let bridge = json!({
            "cniVersion": "1.0.0",
            "name": "reference",
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": true,
            "ipam": {
                "type": "host-local",
                "dataDir": lab.dir().join("host-local"),
                "ranges": [[{"subnet": "10.70.0.0/16"}], [{"subnet": "fd70::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        });
        let portmap = json!({
            "cniVersion": "1.0.0",
            "name": "reference",
            "type": "portmap",
            "runtimeConfig": ports(8080),
        });
        Some(Chain {
            host,
            directory: packages.plugins(),
            plugins: vec![bridge, portmap],
        })
    }

    /// The same for another port of the host, as each container has one.
    pub fn at(&self, port: usize) -> Chain {
        let mut plugins = self.plugins.clone();
        for plugin in plugins.iter_mut().filter(|p| !p["runtimeConfig"].is_null()) {
            plugin["runtimeConfig"] = ports(port);
        }
        Chain {
            host: self.host.clone(),
            directory: self.directory.clone(),
            plugins,
        }
    }

    /// ADD of one after the other.
    pub fn add(&self, id: &str, space: &Namespace) -> Value {
        self.host.enter(|| {
            let mut result = Value::Null;
            for plugin in &self.plugins {
                result = self.call("ADD", id, space.path(), plugin, &result);
            }
            result
        })
    }

    /// DEL in the opposite order.
    pub fn del(&self, id: &str, space: &Namespace, result: &Value) {
        self.host.enter(|| {
            for plugin in self.plugins.iter().rev() {
                self.call("DEL", id, space.path(), plugin, result);
            }
        });
    }

    fn call(&self, verb: &str, id: &str, netns: &Path, plugin: &Value, before: &Value) -> Value {
        let mut configuration = plugin.clone();
        if !before.is_null() {
            configuration["prevResult"] = before.clone();
        }
        let name = plugin["type"].as_str().expect("a type");
        let mut child = Command::new(self.directory.join(name))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut stdin = child.stdin.take().expect("piped");
        let text = configuration.to_string();
        stdin.write_all(text.as_bytes()).expect("write to it");
        drop(stdin);
        let output = child.wait_with_output().expect("wait for it");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{verb} of {name}: {printed}");
        serde_json::from_str(&printed).unwrap_or_default()
    }
}

fn ports(port: usize) -> Value {
    json!({"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]})
}
