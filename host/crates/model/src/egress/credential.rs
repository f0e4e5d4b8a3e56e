//! Where a rule puts a credential that the plugin has handed over at run time.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Where the fields of a credential go. Each map is from the name in the request to the field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialPlaces {
    /// Query parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
    /// Fields of an `application/x-www-form-urlencoded` body.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub form: BTreeMap<String, String>,
    /// Headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub header: BTreeMap<String, String>,
}

impl CredentialPlaces {
    /// Refuses a rule that sends nothing, and names that no request can have.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.fields().next().is_none() {
            let reason = "credential: name at least one query parameter, form field or header";
            return Err(reason.into());
        }
        let unnamed = |names: &BTreeMap<String, String>| names.contains_key("");
        if unnamed(&self.query) || unnamed(&self.form) {
            return Err("credential: a query parameter or form field must have a name".into());
        }
        self.header
            .keys()
            .try_for_each(|name| check_header_name(name))
    }

    /// The fields that are sent.
    pub fn fields(&self) -> impl Iterator<Item = &String> {
        self.query
            .values()
            .chain(self.form.values())
            .chain(self.header.values())
    }
}

/// For operators: `query key,mid`.
impl fmt::Display for CredentialPlaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("query", &self.query),
            ("form", &self.form),
            ("header", &self.header),
        ];
        let told: Vec<String> = kinds
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(kind, names)| {
                let places: Vec<String> = names
                    .iter()
                    .map(|(name, field)| match name == field {
                        true => name.clone(),
                        false => format!("{name}={field}"),
                    })
                    .collect();
                format!("{kind} {}", places.join(","))
            })
            .collect();
        f.write_str(&told.join(" "))
    }
}

pub(super) fn check_header_name(name: &str) -> Result<(), String> {
    let token = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || !name.chars().all(token) {
        return Err(format!(
            "{name:?} is not a header name; use letters, digits and '-'"
        ));
    }
    Ok(())
}
