//! A container runtime as far as CNI goes: it calls the plug-in as libcni does, by the
//! environment and standard input, and reads what it answers.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{Host, Lab, Namespace, binary};

/// A runtime with a network configuration.
pub struct Runtime {
    host: Host,
    plugin: PathBuf,
    configuration: Map<String, Value>,
    args: String,
    /// Stands between: the program that calls.
    caller: Option<PathBuf>,
}

/// What the plug-in answered.
#[derive(Debug)]
pub struct Told {
    pub ok: bool,
    /// What it printed; null where that was nothing.
    pub value: Value,
}

impl Runtime {
    /// A runtime on this host; the plug-in is this build's binary by its other name.
    #[track_caller]
    pub fn new(lab: &Lab, host: &Host, version: &str) -> Runtime {
        let plugin = lab.dir().join("netbpf-cni");
        if let Err(error) = symlink(binary(), &plugin)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            panic!("{}: {error}", plugin.display());
        }
        let configuration = json!({
            "cniVersion": version,
            "name": "front",
            "type": "netbpf-cni",
            "socket": host.socket(),
        });
        let configuration = configuration.as_object().cloned();
        Runtime {
            host: host.clone(),
            plugin,
            configuration: configuration.unwrap_or_default(),
            args: String::new(),
            caller: None,
        }
    }

    /// The same with another key, or another value of one.
    pub fn with(&self, key: &str, value: Value) -> Runtime {
        let mut configuration = self.configuration.clone();
        configuration.insert(key.into(), value);
        Runtime {
            host: self.host.clone(),
            plugin: self.plugin.clone(),
            configuration,
            args: self.args.clone(),
            caller: self.caller.clone(),
        }
    }

    /// The same with something in `runtimeConfig`.
    pub fn asking(&self, key: &str, value: Value) -> Runtime {
        let mut all = self.configuration.get("runtimeConfig").cloned();
        let all = all.get_or_insert_with(|| json!({}));
        all[key] = value;
        self.with("runtimeConfig", all.clone())
    }

    /// The same with `CNI_ARGS`.
    pub fn args(&self, args: &str) -> Runtime {
        let mut same = self.with("name", self.configuration["name"].clone());
        same.args = args.into();
        same
    }

    /// The same called by a program of this name.
    #[track_caller]
    pub fn by(&self, name: &str) -> Runtime {
        let mut same = self.with("name", self.configuration["name"].clone());
        let caller = self.plugin.with_file_name(name);
        // It stays there, as the plug-in's parent.
        fs::write(&caller, "#!/bin/sh\n\"$@\"\nexit $?\n").expect("write the caller");
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&caller, executable).expect("make it executable");
        same.caller = Some(caller);
        same
    }

    /// Calls the plug-in for an interface of a container.
    #[track_caller]
    pub fn call(&self, verb: &str, id: &str, ifname: &str, space: Option<&Namespace>) -> Told {
        let netns = space.map_or_else(String::new, |space| space.path().display().to_string());
        let words = self.caller.iter().chain([&self.plugin]);
        let words: Vec<String> = words.map(|path| path.display().to_string()).collect();
        let output = self
            .host
            .run(&words)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_IFNAME", ifname)
            .env("CNI_NETNS", &netns)
            .env("CNI_ARGS", &self.args)
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(&Value::Object(self.configuration.clone()).to_string())
            // As many may call at once as a test likes.
            .timeout(Duration::from_secs(60))
            .output();
        let text = output.stdout.trim();
        Told {
            ok: output.status.success(),
            value: match text {
                "" => Value::Null,
                text => serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}:\n{output}")),
            },
        }
    }

    /// ADD that must succeed; the result.
    #[track_caller]
    pub fn add(&self, id: &str, space: &Namespace) -> Value {
        self.call("ADD", id, "eth0", Some(space)).done()
    }

    /// DEL that must succeed and print nothing.
    #[track_caller]
    pub fn del(&self, id: &str, space: Option<&Namespace>) {
        assert_eq!(self.call("DEL", id, "eth0", space).done(), Value::Null);
    }

    /// CHECK against the result of ADD.
    #[track_caller]
    pub fn check(&self, id: &str, space: &Namespace, result: &Value) -> Told {
        let with = self.with("prevResult", result.clone());
        with.call("CHECK", id, "eth0", Some(space))
    }
}

impl Told {
    #[track_caller]
    pub fn done(self) -> Value {
        assert!(self.ok, "must succeed: {:?}", self.value);
        self.value
    }

    /// Code and message of an error.
    #[track_caller]
    pub fn refused(self) -> (u64, String) {
        assert!(!self.ok, "must fail: {:?}", self.value);
        let code = self.value["code"].as_u64();
        let message = self.value["msg"].as_str();
        let told = code.zip(message.map(str::to_owned));
        told.unwrap_or_else(|| panic!("no error of CNI: {:?}", self.value))
    }
}
