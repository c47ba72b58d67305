//! Versions of the CNI specification.

use super::error::{CniError, Number};

/// A version that the plug-in speaks, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpecVersion {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl SpecVersion {
    pub const ALL: [SpecVersion; 4] = [
        SpecVersion::V0_3_1,
        SpecVersion::V0_4_0,
        SpecVersion::V1_0_0,
        SpecVersion::V1_1_0,
    ];
    pub const LATEST: SpecVersion = SpecVersion::V1_1_0;

    pub const fn as_str(self) -> &'static str {
        match self {
            SpecVersion::V0_3_1 => "0.3.1",
            SpecVersion::V0_4_0 => "0.4.0",
            SpecVersion::V1_0_0 => "1.0.0",
            SpecVersion::V1_1_0 => "1.1.0",
        }
    }

    /// All of them, as they are shown to people.
    pub fn list() -> String {
        SpecVersion::ALL.map(SpecVersion::as_str).join(", ")
    }

    /// What `cniVersion` says; a configuration without it is one of 0.1.0.
    pub fn of(text: Option<&str>) -> Result<SpecVersion, CniError> {
        let text = text.filter(|text| !text.is_empty()).unwrap_or("0.1.0");
        let found = SpecVersion::ALL.into_iter().find(|v| v.as_str() == text);
        found.ok_or_else(|| {
            CniError::new(
                Number::IncompatibleVersion,
                format!(
                    "cniVersion {text:?} is not supported: netbpf-cni speaks {}",
                    SpecVersion::list()
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_order() {
        assert!(SpecVersion::ALL.is_sorted());
        assert_eq!(SpecVersion::ALL.last(), Some(&SpecVersion::LATEST));
        for version in SpecVersion::ALL {
            assert_eq!(SpecVersion::of(Some(version.as_str())).unwrap(), version);
        }
    }

    #[test]
    fn others_are_refused_by_name() {
        for (text, shown) in [(None, "0.1.0"), (Some(""), "0.1.0"), (Some("2.0"), "2.0")] {
            let error = SpecVersion::of(text).unwrap_err();
            assert_eq!(error.number, Number::IncompatibleVersion);
            assert!(error.message.contains(shown), "{}", error.message);
        }
    }
}
