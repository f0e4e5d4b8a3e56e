//! The form of a vendor's key: `vk_live_`, 12 letters and digits of base32 that name it, a point,
//! and 256 random bits in base64url. Scanners of repositories know it by its beginning.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const BEGINNING: &str = "vk_live_";
const PREFIX_LENGTH: usize = 12;
const SECRET_LENGTH: usize = 43;
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A new key, whole, with the part that names it.
pub(super) fn generate() -> (String, Zeroizing<String>) {
    let mut random = rand::rng();
    let letter = |_| char::from(BASE32[random.random_range(0..BASE32.len())]);
    let prefix: String = (0..PREFIX_LENGTH).map(letter).collect();
    let secret = Zeroizing::new(rand::random::<[u8; 32]>());
    let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(*secret));
    let whole = format!("{BEGINNING}{prefix}.{}", *secret);
    (prefix, Zeroizing::new(whole))
}

/// The part that names a key; `None` for a text that is no key.
pub(super) fn prefix_of(key: &str) -> Option<&str> {
    let (prefix, secret) = key.strip_prefix(BEGINNING)?.split_once('.')?;
    let is_secret = secret.len() == SECRET_LENGTH
        && secret
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    (is_prefix(prefix) && is_secret).then_some(prefix)
}

pub(super) fn is_prefix(text: &str) -> bool {
    text.len() == PREFIX_LENGTH && text.bytes().all(|byte| BASE32.contains(&byte))
}

pub(super) fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_has_the_form_that_is_read() {
        let (prefix, key) = generate();
        assert_eq!(prefix_of(&key), Some(prefix.as_str()));
        assert_eq!(key.len(), 64);
        assert_ne!(generate().1, key);
    }

    #[test]
    fn other_texts_are_no_keys() {
        let (_, key) = generate();
        for text in [
            String::new(),
            "vk_live_".to_owned(),
            key.replace("live", "test"),
            key.replace('.', ""),
            key.replace('.', ".."),
            format!("{}x", *key),
            key[..63].to_owned(),
            key.to_uppercase(),
            format!(" {}", *key),
            key.replacen("vk_live_", "vk_live_é", 1),
            "vk_live_aaaaaaaaaaa1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
        ] {
            assert_eq!(prefix_of(&text), None, "{text}");
        }
    }
}
