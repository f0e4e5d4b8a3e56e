//! Secrets: where they come from, and what a guest may learn about them (whether a MAC or a candidate fits, never the value).

use hmac::{Hmac, KeyInit, Mac};
use patchbay_model::PluginName;
use patchbay_model::capability::HashKind;
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq;

/// A secret's value. Not printable, on purpose.
#[derive(Clone)]
pub struct SecretValue(String);

impl SecretValue {
    /// Wraps it.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn matches(&self, candidate: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(candidate).into()
    }

    pub(crate) fn sign(&self, hash: HashKind, data: &[u8]) -> Vec<u8> {
        fn mac<M: Mac + KeyInit>(key: &[u8], data: &[u8]) -> Vec<u8> {
            let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
            mac.update(data);
            mac.finalize().into_bytes().to_vec()
        }
        let key = self.0.as_bytes();
        match hash {
            HashKind::Sha1 => mac::<Hmac<Sha1>>(key, data),
            HashKind::Sha256 => mac::<Hmac<Sha256>>(key, data),
            HashKind::Sha512 => mac::<Hmac<Sha512>>(key, data),
        }
    }

    pub(crate) fn verify(&self, hash: HashKind, data: &[u8], mac: &[u8]) -> bool {
        self.sign(hash, data).ct_eq(mac).into()
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

/// Where secrets are kept.
pub trait SecretSource: Send + Sync + 'static {
    /// The current value, if the operator set one.
    fn get(&self, plugin: &PluginName, name: &str) -> Option<SecretValue>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_match_the_published_vectors_and_nothing_else() {
        // RFC 4231, test case 2.
        let secret = SecretValue::new("Jefe".into());
        let data = b"what do ya want for nothing?";
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let mac = secret.sign(HashKind::Sha256, data);
        assert_eq!(mac.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
        assert!(secret.verify(HashKind::Sha256, data, &mac));
        assert!(!secret.verify(HashKind::Sha512, data, &mac));
        assert!(!secret.verify(HashKind::Sha256, data, &mac[..16]));
    }

    #[test]
    fn a_secret_never_prints_itself() {
        assert!(!format!("{:?}", SecretValue::new("hunter2".into())).contains("hunter2"));
    }
}
