//! The CNI plug-in, by the [specification] and its conventions: `netbpf-cni`, or
//! `netbpf cni`.
//!
//! A runtime calls it once for each verb, with a [`call`] in the environment and a
//! [`config`] on standard input, and reads a [`result`] or an [`error`] from standard
//! output. It asks the daemon and keeps nothing: attachments are found by container id
//! and interface. A daemon that is away is error 11 (try again) for ADD; DEL succeeds
//! then, as runtimes need it, since what is left behind goes with the container's
//! namespace.
//!
//! [specification]: https://github.com/containernetworking/cni/blob/main/SPEC.md

mod call;
mod config;
mod error;
mod name;
mod network;
mod ports;
mod result;
mod verbs;
mod version;

use std::{
    ffi::OsString,
    io::{Read, Write},
    path::Path,
    process::ExitCode,
};

use self::{
    call::{Call, Verb},
    error::{CniError, Number},
    version::SpecVersion,
};

/// More than any runtime sends: 64k port mappings.
const LONGEST_INPUT: u64 = 16 << 20;

/// What became of a call: what is to be printed.
struct Outcome {
    version: SpecVersion,
    done: Result<Option<String>, CniError>,
}

/// Answers a runtime from environment and standard input.
pub fn main(socket: Option<&Path>) -> ExitCode {
    let get = |name: &str| std::env::var_os(name);
    let (out, code) = match answer(get, &mut std::io::stdin().lock(), socket) {
        None => {
            let about = format!(
                "netbpf-cni {}: called by container runtimes, by the environment (CNI_COMMAND…) \
                 and a network configuration on standard input.\nCNI versions: {}",
                env!("CARGO_PKG_VERSION"),
                SpecVersion::list()
            );
            // Who tries it reads this, or nobody does.
            let _ = writeln!(std::io::stderr(), "{about}");
            return ExitCode::SUCCESS;
        }
        Some(Outcome { done: Ok(None), .. }) => return ExitCode::SUCCESS,
        Some(Outcome {
            done: Ok(Some(text)),
            ..
        }) => (text, ExitCode::SUCCESS),
        Some(Outcome {
            version,
            done: Err(error),
        }) => (error.json(version), ExitCode::FAILURE),
    };
    match writeln!(std::io::stdout(), "{out}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

/// None where this is no call.
fn answer(
    get: impl Fn(&str) -> Option<OsString>,
    input: &mut impl Read,
    socket: Option<&Path>,
) -> Option<Outcome> {
    let call = match Call::read(get) {
        Ok(call) => call?,
        Err(error) => {
            return Some(Outcome {
                version: SpecVersion::LATEST,
                done: Err(error),
            });
        }
    };
    let (version, configuration) = match read(input) {
        Ok(parsed) => parsed,
        // Nothing needs to be said to be told the versions.
        Err(_) if call.verb == Verb::Version => {
            return Some(Outcome {
                version: SpecVersion::LATEST,
                done: Ok(Some(versions(SpecVersion::LATEST))),
            });
        }
        Err(error) => {
            return Some(Outcome {
                version: SpecVersion::LATEST,
                done: Err(error),
            });
        }
    };
    let spoken = *version.as_ref().unwrap_or(&SpecVersion::LATEST);
    let done = match (call.verb, version) {
        (Verb::Version, _) => Ok(Some(versions(spoken))),
        (_, Err(error)) => Err(error),
        (_, Ok(version)) => verbs::run(&call, version, configuration, socket),
    };
    Some(Outcome {
        version: spoken,
        done,
    })
}

type Parsed = (Result<SpecVersion, CniError>, serde_json::Value);

fn read(input: &mut impl Read) -> Result<Parsed, CniError> {
    let mut bytes = Vec::new();
    let failed = |e| CniError::new(Number::InputOutput, format!("standard input: {e}"));
    let mut input = input.take(LONGEST_INPUT + 1);
    input.read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > LONGEST_INPUT {
        true => Err(CniError::new(
            Number::CannotDecode,
            format!("the network configuration is longer than {LONGEST_INPUT} bytes"),
        )),
        false => config::parse(&bytes),
    }
}

fn versions(version: SpecVersion) -> String {
    serde_json::json!({
        "cniVersion": version.as_str(),
        "supportedVersions": SpecVersion::ALL.map(SpecVersion::as_str),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn call(variables: &[(&str, &str)], input: &str) -> Option<(bool, Value)> {
        let get = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let outcome = answer(get, &mut input.as_bytes(), None)?;
        let (ok, text) = match outcome.done {
            Ok(text) => (true, text.unwrap_or_else(|| "null".into())),
            Err(error) => (false, error.json(outcome.version)),
        };
        Some((ok, serde_json::from_str(&text).unwrap()))
    }

    #[test]
    fn versions_are_told_whoever_asks() {
        for (input, shown) in [
            (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
            (r#"{"cniVersion":"9.9.9"}"#, "1.1.0"),
            ("{}", "1.1.0"),
            ("", "1.1.0"),
        ] {
            let (ok, told) = call(&[("CNI_COMMAND", "VERSION")], input).unwrap();
            assert!(ok);
            assert_eq!(told["cniVersion"], shown, "{input}");
            assert_eq!(
                told["supportedVersions"],
                json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
            );
        }
    }

    #[test]
    fn who_tries_it_is_no_runtime() {
        assert!(call(&[], "").is_none());
    }

    #[test]
    fn an_error_is_told_in_the_callers_version() {
        let status = [("CNI_COMMAND", "STATUS")];
        let (ok, told) = call(&status, r#"{"cniVersion":"0.4.0","name":"front"}"#).unwrap();
        assert!(!ok);
        assert_eq!(
            (&told["cniVersion"], &told["code"]),
            (&json!("0.4.0"), &json!(1))
        );
        let (_, told) = call(&status, r#"{"cniVersion":"0.2.0","name":"front"}"#).unwrap();
        assert_eq!(
            (&told["cniVersion"], &told["code"]),
            (&json!("1.1.0"), &json!(1))
        );
        let (_, told) = call(&status, "{").unwrap();
        assert_eq!(told["code"], 6);
    }

    /// docs/engines.md has every key, verb and code.
    #[test]
    fn the_page_says_what_there_is() {
        let page = include_str!("../../../../docs/engines.md");
        for number in Number::ALL {
            let row = format!("| {} | ", number as u32);
            assert!(page.contains(&row), "{row}");
        }
        for (verb, _) in Verb::ALL {
            assert!(page.contains(&format!("| `{verb}` |")), "{verb}");
        }
        for key in config::Config::KEYS {
            assert!(page.contains(&format!("`{key}`")), "{key}");
        }
        assert!(page.contains(&SpecVersion::list()));
    }

    proptest! {
        /// Whatever comes is answered by JSON, and by nothing else. The socket is one
        /// that nobody listens on.
        #[test]
        fn anything_is_answered(
            command in "ADD|DEL|CHECK|GC|STATUS|VERSION|\\PC{0,4}",
            id in "[a-z0-9]{0,3}|\\PC{0,6}",
            netns in "(/[a-z]{1,4}){0,2}",
            args in "(IP|MAC|IgnoreUnknown|K8S_POD_NAME|\\PC{0,3})=\\PC{0,5}(;\\PC{0,6})?",
            version in "0\\.3\\.1|0\\.4\\.0|1\\.0\\.0|1\\.1\\.0|\\PC{0,4}",
            key in "subnets|mtu|prevResult|runtimeConfig|args|dns|ipam|\\PC{0,6}",
            value in any_json(),
        ) {
            let mut configuration = json!({
                "cniVersion": version, "name": "front", "type": "netbpf-cni",
            });
            configuration[key] = value;
            configuration["socket"] = "/nonexistent/netbpf.sock".into();
            let variables = [
                ("CNI_COMMAND", command.as_str()), ("CNI_CONTAINERID", &id),
                ("CNI_NETNS", &netns), ("CNI_IFNAME", "eth0"), ("CNI_ARGS", &args),
            ];
            if let Some((ok, told)) = call(&variables, &configuration.to_string())
                && !ok
            {
                prop_assert!(told["code"].is_u64() && told["msg"].is_string());
            }
        }

        #[test]
        fn any_input_is_answered(input in "\\PC{0,40}") {
            let add = [
                ("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "a"), ("CNI_NETNS", "/n"),
                ("CNI_IFNAME", "eth0"),
            ];
            let (ok, told) = call(&add, &input).unwrap();
            prop_assert!(!ok && told["code"].is_u64());
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        let keys = "portMappings|hostPort|ips|interfaces|sandbox|name|mac|cni|\\PC{0,4}";
        leaf.prop_recursive(4, 24, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((keys, inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }
}
