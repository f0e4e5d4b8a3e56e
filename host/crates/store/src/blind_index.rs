//! Terms: keyed hashes of job data's values, by which the history is searched. So the index holds
//! no personal data in clear text.
//!
//! The key is derived from the installation's key, which is in the same database: a person who can
//! read the whole database can still try values one by one.

use hmac::{Hmac, KeyInit, Mac};
use patchbay_model::DataPath;
use sha2::Sha256;

/// The type of `attempt_terms.term`.
pub type Term = [u8; 16];

#[derive(Clone)]
pub struct TermKey([u8; 32]);

impl TermKey {
    /// `key` is the installation's key.
    pub(crate) fn derived_from(key: &[u8]) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(b"terms of the history");
        Self(mac.finalize().into_bytes().into())
    }

    /// The same value at the same path gives the same term in every queue. `value` is the text of a
    /// string, or a number or boolean as it is written.
    pub fn term(&self, path: &DataPath, value: &str) -> Term {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        // The length comes first, so that two different pairs never give the same bytes.
        mac.update(&(path.as_str().len() as u64).to_be_bytes());
        mac.update(path.as_str().as_bytes());
        mac.update(value.as_bytes());
        let mut term = [0; 16];
        term.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        term
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_differ_by_path_value_and_key() {
        let term = |key: u8, path: &str, value: &str| {
            TermKey([key; 32]).term(&path.parse().expect("a path"), value)
        };
        assert_eq!(term(1, "lead.id", "42"), term(1, "lead.id", "42"));
        for other in [
            term(2, "lead.id", "42"),
            term(1, "lead.id", "43"),
            term(1, "lead", "id42"),
            term(1, "lead.i", "d42"),
        ] {
            assert_ne!(term(1, "lead.id", "42"), other);
        }
    }
}
