//! The second factor: one-time passwords (RFC 6238).
//!
//! The secret is derived from a key of the host and a salt in the operator's row, so that a dump of
//! the database tells nothing, and a change of the master key reseals one key.

use hmac::{Hmac, KeyInit, Mac};
use patchbay_store::TotpSalt;
use sha2::Sha256;
use totp_rs::{Builder, Secret, Totp};
use zeroize::Zeroizing;

use super::OperatorParts;
use crate::error::{Error, Kind};

/// A key's purpose in `sealed_keys`.
const PURPOSE: &str = "operator-totp";
/// As RFC 4226 recommends.
const SECRET_BYTES: usize = 20;

/// What an authenticator is set up with.
pub(super) struct Shown {
    /// In base32.
    pub(super) secret: Zeroizing<String>,
    pub(super) uri: Zeroizing<String>,
}

impl OperatorParts {
    /// A new second factor.
    pub(super) async fn new_totp(&self) -> Result<TotpSalt, Error> {
        let key = self.sealed.get_or_create(PURPOSE).await?;
        Ok(TotpSalt {
            kid: key.kid,
            salt: rand::random(),
        })
    }

    /// How an authenticator is set up.
    pub(super) async fn shown_totp(&self, salt: &TotpSalt, name: &str) -> Result<Shown, Error> {
        let secret = self.totp_secret(salt).await?;
        let secret = Zeroizing::new(Secret::from(secret.to_vec()).to_base32());
        let uri = format!(
            "otpauth://totp/Patchbay:{name}?secret={}&issuer=Patchbay",
            *secret
        );
        Ok(Shown {
            secret,
            uri: uri.into(),
        })
    }

    /// The step of a right code.
    pub(super) async fn totp_step(
        &self,
        salt: &TotpSalt,
        typed: &str,
    ) -> Result<Option<i64>, Error> {
        let secret = self.totp_secret(salt).await?;
        let now = u64::try_from(self.now_ms() / 1_000).unwrap_or_default();
        Ok(totp(&secret).and_then(|totp| totp.check(typed, now).map(u64::cast_signed)))
    }

    async fn totp_secret(&self, salt: &TotpSalt) -> Result<Zeroizing<Vec<u8>>, Error> {
        let keys = self.sealed.all(PURPOSE).await?;
        let Some(key) = keys.iter().find(|key| key.kid == salt.kid) else {
            let message = "The key of second factors cannot be opened: no configured master key (secrets.key_file) is the one that sealed it. \
                           Configure that one; or make new links: patchbay operator recover NAME";
            return Err(Error::new(Kind::Conflict, "no-vault-key", message));
        };
        Ok(derived(&key.key, &salt.salt))
    }
}

fn derived(key: &[u8; 32], salt: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(salt);
    let whole = mac.finalize().into_bytes();
    Zeroizing::new(whole[..SECRET_BYTES].to_vec())
}

fn totp(secret: &[u8]) -> Option<Totp> {
    let built = Builder::new().with_secret(secret.to_vec()).build();
    built
        .inspect_err(|error| tracing::error!(%error, "a second factor cannot be used"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_depends_on_key_and_salt_and_makes_codes_of_six_digits() {
        let one = derived(&[1; 32], &[2; 32]);
        assert_eq!(one.len(), SECRET_BYTES);
        assert_ne!(one, derived(&[1; 32], &[3; 32]));
        assert_ne!(one, derived(&[3; 32], &[2; 32]));
        let totp = totp(&one).expect("a second factor");
        let code = totp.generate(1_000).to_string();
        assert_eq!(totp.check(&code, 1_010), Some(33));
        assert_eq!(totp.check(&code, 2_000), None);
    }
}
