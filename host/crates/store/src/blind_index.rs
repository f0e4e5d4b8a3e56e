//! Values of job data as the history is searched by: of each a keyed hash, so that no personal data stands there in the clear.
//!
//! The key is derived from the installation's own, which is in the same database: whoever reads all of it can still try values one by one.

use hmac::{Hmac, KeyInit, Mac};
use patchbay_model::DataPath;
use sha2::Sha256;

/// What stands in `attempt_terms.term`.
pub type Term = [u8; 16];

/// Makes terms.
#[derive(Clone)]
pub struct TermKey([u8; 32]);

impl TermKey {
    /// From the key of an installation.
    pub(crate) fn derived_from(key: &[u8]) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(b"terms of the history");
        Self(mac.finalize().into_bytes().into())
    }

    /// The same for the same value at the same path, in whichever queue. `value` is the text of a string, or a number or boolean as it is
    /// written.
    pub fn term(&self, path: &DataPath, value: &str) -> Term {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        // The length first, so that no two pairs are the same bytes.
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
        let term = |key: u8, path: &str, value: &str| TermKey([key; 32]).term(&path.parse().expect("a path"), value);
        assert_eq!(term(1, "lead.id", "42"), term(1, "lead.id", "42"));
        for other in
            [term(2, "lead.id", "42"), term(1, "lead.id", "43"), term(1, "lead", "id42"), term(1, "lead.i", "d42")]
        {
            assert_ne!(term(1, "lead.id", "42"), other);
        }
    }
}
