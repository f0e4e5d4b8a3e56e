//! Values of secrets: their source, and what may be learned about them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use patchbay_model::PluginName;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKind {
    Sha1,
    Sha256,
    Sha512,
}

/// One version of a secret. Not printable, on purpose. Its memory is wiped with the last clone.
#[derive(Clone)]
pub struct SecretValue(Arc<Version>);

struct Version {
    text: Zeroizing<String>,
    /// Milliseconds since 1970; 0 means never.
    used_ms: AtomicU64,
}

impl SecretValue {
    pub fn new(value: String) -> Self {
        Self(Arc::new(Version {
            text: Zeroizing::new(value),
            used_ms: AtomicU64::new(0),
        }))
    }

    /// When this process last used it: sent it, signed with it, or found that a value matches it.
    pub fn last_used(&self) -> Option<SystemTime> {
        let ms = self.0.used_ms.load(Ordering::Relaxed);
        (ms > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
    }

    pub(crate) fn expose(&self) -> &str {
        self.mark();
        &self.0.text
    }

    /// Whether it is this value. The time of the comparison tells nothing.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        // Digests have one length, so the time shows nothing, not even the secret's length.
        let digest = |bytes: &[u8]| -> [u8; 32] { Sha256::digest(bytes).into() };
        let fits: bool = digest(self.0.text.as_bytes())
            .ct_eq(&digest(candidate))
            .into();
        if fits {
            self.mark();
        }
        fits
    }

    pub(crate) fn sign(&self, hash: HashKind, data: &[u8]) -> Vec<u8> {
        self.mark();
        self.mac(hash, data)
    }

    /// Whether `mac` is the HMAC of `data` under it. The time of the comparison tells nothing.
    pub fn verify(&self, hash: HashKind, data: &[u8], mac: &[u8]) -> bool {
        let fits: bool = self.mac(hash, data).ct_eq(mac).into();
        if fits {
            self.mark();
        }
        fits
    }

    fn mac(&self, hash: HashKind, data: &[u8]) -> Vec<u8> {
        fn mac<M: Mac + KeyInit>(key: &[u8], data: &[u8]) -> Vec<u8> {
            let mut mac =
                <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
            mac.update(data);
            mac.finalize().into_bytes().to_vec()
        }
        let key = self.0.text.as_bytes();
        match hash {
            HashKind::Sha1 => mac::<Hmac<Sha1>>(key, data),
            HashKind::Sha256 => mac::<Hmac<Sha256>>(key, data),
            HashKind::Sha512 => mac::<Hmac<Sha512>>(key, data),
        }
    }

    fn mark(&self) {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.0.used_ms.store(
            since.as_millis().try_into().unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

/// Where secrets are kept. It is asked during calls, so it answers from memory.
pub trait SecretSource: Send + Sync + 'static {
    /// Every valid version, the newest first; empty when the operator set none.
    fn current(&self, plugin: &PluginName, name: &str) -> Vec<SecretValue>;

    /// The newest version, which is the one that is sent.
    fn get(&self, plugin: &PluginName, name: &str) -> Option<SecretValue> {
        self.current(plugin, name).into_iter().next()
    }
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
        assert_eq!(
            mac.iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>(),
            expected
        );
        assert!(secret.verify(HashKind::Sha256, data, &mac));
        assert!(!secret.verify(HashKind::Sha512, data, &mac));
        assert!(!secret.verify(HashKind::Sha256, data, &mac[..16]));
    }

    #[test]
    fn only_a_use_that_fits_counts_as_a_use() {
        let secret = SecretValue::new("hunter2".into());
        assert!(!secret.matches(b"hunter") && !secret.verify(HashKind::Sha256, b"data", b"mac"));
        assert_eq!(secret.last_used(), None);
        assert!(secret.clone().matches(b"hunter2"));
        assert!(secret.last_used().is_some());
    }

    #[test]
    fn a_secret_never_prints_itself() {
        assert!(!format!("{:?}", SecretValue::new("hunter2".into())).contains("hunter2"));
    }
}
