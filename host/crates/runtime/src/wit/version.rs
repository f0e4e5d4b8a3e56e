//! Versions of the contract, and which one a component was built for.

use crate::Rejection;

/// Every interface of the contract begins with this.
const PACKAGE: &str = "patchbay:plugin/";

/// A minor version of the contract. Only components and hosts of the same minor version link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wit {
    V0_1,
    V0_2,
}

impl Wit {
    pub const ALL: [Self; 2] = [Self::V0_1, Self::V0_2];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1 => "0.1",
            Self::V0_2 => "0.2",
        }
    }

    /// Whether it may still change.
    pub fn is_draft(self) -> bool {
        self == Self::V0_2
    }

    /// The version that a component with these imports and exports was built for; `None` if it uses
    /// no interface of the contract.
    pub(crate) fn of<'a>(
        names: impl Iterator<Item = &'a String>,
    ) -> Result<Option<Self>, Rejection> {
        let mut found: Option<(Self, &str)> = None;
        for name in names {
            let Some((_, version)) = interface(name) else {
                continue;
            };
            let known = Self::ALL
                .into_iter()
                .find(|known| minor(version) == Some(known.as_str()));
            let wit = known.ok_or_else(|| Rejection::UnknownWit { name: name.clone() })?;
            match found {
                Some((other, first)) if other != wit => {
                    return Err(Rejection::MixedWit {
                        first: first.to_owned(),
                        second: name.clone(),
                    });
                }
                Some(_) => {}
                None => found = Some((wit, name)),
            }
        }
        Ok(found.map(|(wit, _)| wit))
    }
}

/// Splits the name of an interface of the contract: `jobs` and `0.1.0` for
/// `patchbay:plugin/jobs@0.1.0`.
pub(crate) fn interface(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix(PACKAGE)?;
    Some(rest.split_once('@').unwrap_or((rest, "")))
}

/// `0.1` for `0.1.7`.
fn minor(version: &str) -> Option<&str> {
    let (first, _) = version.match_indices('.').next()?;
    let second = version[first + 1..].find('.')?;
    Some(&version[..first + 1 + second])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Result<Option<Wit>, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Wit::of(names.iter()).map_err(|rejection| rejection.to_string())
    }

    #[test]
    fn a_components_version_is_the_one_of_all_that_it_has_of_ours() {
        assert_eq!(
            of(&["wasi:io/poll@0.2.6", "patchbay:plugin/jobs@0.1.0"]),
            Ok(Some(Wit::V0_1))
        );
        assert_eq!(
            of(&["patchbay:plugin/kv@0.1.7", "patchbay:plugin/jobs@0.1.0"]),
            Ok(Some(Wit::V0_1))
        );
        assert_eq!(
            of(&["patchbay:plugin/jobs@0.2.0-draft.3"]),
            Ok(Some(Wit::V0_2))
        );
        assert_eq!(of(&["wasi:cli/run@0.2.6"]), Ok(None));
    }

    #[test]
    fn versions_that_are_unknown_or_mixed_are_refused_by_name() {
        for unknown in [
            "patchbay:plugin/jobs@0.10.0",
            "patchbay:plugin/jobs@1.1.0",
            "patchbay:plugin/jobs",
        ] {
            assert!(
                of(&[unknown]).is_err_and(|reason| reason.contains(unknown)),
                "{unknown}"
            );
        }
        let mixed = of(&[
            "patchbay:plugin/kv@0.1.0",
            "patchbay:plugin/jobs@0.2.0-draft.3",
        ]);
        assert!(
            mixed.is_err_and(|reason| reason.contains("kv@0.1.0") && reason.contains("jobs@0.2.0"))
        );
    }
}
