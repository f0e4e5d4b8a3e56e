//! The key by which the program that runs a host asks that host: `patchbay dev` loads plugins with it,
//! whatever the login of the configuration opens.
//!
//! It is made at each start and is in the memory of that one process only: it is never stored, printed
//! or sent anywhere else. `patchbay serve` has none.

use base64::Engine;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Recorded of what is done with it. No operator can have a name with a space.
pub(crate) const NAME: &str = "patchbay dev";

/// What the host keeps of the key.
pub struct OwnKey([u8; 32]);

impl OwnKey {
    /// A key, and what a client sends as a bearer token. The bytes are random.
    pub fn of(bytes: &[u8; 32]) -> (Self, Zeroizing<String>) {
        let secret = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        // The same prefix as tokens of programs. An id of theirs has no upper-case letters.
        let text = Zeroizing::new(format!("pbt_OWN_{secret}"));
        (Self(digest(&text)), text)
    }

    pub(crate) fn is(&self, text: &str) -> bool {
        self.0.ct_eq(&digest(text)).into()
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_itself_is_it_and_each_is_another() {
        let (key, text) = OwnKey::of(&[1; 32]);
        let (other, other_text) = OwnKey::of(&[2; 32]);
        assert!(key.is(&text) && other.is(&other_text));
        assert!(!key.is(&other_text) && !key.is("") && !key.is(&text[..text.len() - 1]));
    }
}
