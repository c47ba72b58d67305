//! What an endpoint that an engine asks for is called. Engines know containers by long
//! ids; people, and `netbpf ps`, by what they called them.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::call::Call;
use crate::integrations::short_id;

/// Longest name, as of a DNS label.
const LONGEST: usize = 63;

/// Names to try, one after the other, as long as they are taken.
pub fn candidates(call: &Call) -> Vec<String> {
    let id = &call.container_id;
    let short = short_id(id);
    // A second interface on the same network; an interface's name may have other
    // characters than ours.
    let with_interface = |name: &str| {
        let rest = LONGEST.saturating_sub(1 + call.ifname.len());
        format!("{}.{}", &name[..name.len().min(rest)], call.ifname)
    };
    let mut hash = DefaultHasher::new();
    (id, &call.ifname).hash(&mut hash);
    // Nobody else's, however much two ids are alike.
    let sure = format!("{}-{:016x}", &short[..short.len().min(12)], hash.finish());
    let pod = of_pod(call);
    let all = [
        pod.clone(),
        pod.map(|pod| with_interface(&pod)),
        Some(short.clone()),
        Some(with_interface(&short)),
        Some(sure),
    ];
    let mut names: Vec<String> = Vec::new();
    for name in all.into_iter().flatten() {
        if is_name(&name) && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Kubernetes' pods by name and namespace, Podman's containers by name: it has no
/// namespaces and says its name in the same place.
fn of_pod(call: &Call) -> Option<String> {
    let pod = call.args.pod_name.as_ref()?;
    let name = match &call.args.pod_namespace {
        Some(namespace) => format!("{pod}.{namespace}"),
        None => pod.clone(),
    };
    Some(name).filter(|name| is_name(name))
}

/// Whether the daemon takes it as a name.
pub fn is_name(name: &str) -> bool {
    crate::control::check_name("endpoint", name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integrations::cni::call::{Args, Verb};

    fn call(id: &str, pod: Option<&str>, namespace: Option<&str>) -> Call {
        Call {
            verb: Verb::Add,
            container_id: id.into(),
            netns: "/n".into(),
            ifname: "eth0".into(),
            args: Args {
                pod_name: pod.map(str::to_owned),
                pod_namespace: namespace.map(str::to_owned),
                ..Args::default()
            },
        }
    }

    #[test]
    fn names_are_those_that_people_know() {
        let long = "3f2a9c41d7e0".repeat(6);
        let of = |id: &str, pod, namespace| candidates(&call(id, pod, namespace));
        assert_eq!(of("web", None, None)[..2], ["web", "web.eth0"]);
        let podman = of(&long, Some("web"), None);
        assert_eq!(podman[..3], ["web", "web.eth0", &long[..12]]);
        assert_eq!(of(&long, Some("web"), Some("prod"))[0], "web.prod");
        assert_eq!(of(&long, None, None)[0], &long[..12]);
        let pod = "p".repeat(60);
        assert_eq!(of(&long, Some(&pod), Some("prod"))[0], &long[..12]);
    }

    #[test]
    fn all_of_them_are_names() {
        for id in ["a", &"x".repeat(63), &"x".repeat(64), &"x".repeat(200)] {
            let mut call = call(id, Some("a b"), Some("?"));
            call.ifname = "fifteen-letters".into();
            let names = candidates(&call);
            assert!(!names.is_empty());
            assert!(names.iter().all(|name| is_name(name)), "{names:?}");
        }
    }
}
