//! The identity of this installation, and what its key gives: logins' passwords, the outbox's MACs.
//!
//! Nothing derived is stored: every process computes the same values, and Postgres gets only the
//! verifier that SCRAM needs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use patchbay_model::PluginName;
use sha2::{Digest, Sha256};
use sqlx::{PgPool, Row};

use crate::StoreError;

/// Postgres's default. The passwords have 256 random bits; more iterations would add nothing.
const SCRAM_ITERATIONS: u32 = 4_096;

/// The row of the table `installation`.
pub(super) struct Installation {
    prefix: String,
    key: Vec<u8>,
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        // Lengths come first, so that two different lists of parts never give the same bytes.
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Without lengths, as the standards define it.
fn plain_hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

impl Installation {
    pub(super) async fn load(pool: &PgPool) -> Result<Self, StoreError> {
        let row = sqlx::query("select id::text as id, key from installation")
            .fetch_one(pool)
            .await?;
        let id: String = row.try_get("id")?;
        Ok(Self {
            prefix: id.chars().take(8).collect(),
            key: row.try_get("key")?,
        })
    }

    /// `pb_<8 hex digits>_<plugin>`: at most 51 bytes, never needs escaping within double quotes.
    pub(super) fn role(&self, plugin: &PluginName) -> String {
        format!("{}{plugin}", self.role_prefix())
    }

    /// The prefix of the names of all plugins' logins.
    pub(super) fn role_prefix(&self) -> String {
        format!("pb_{}_", self.prefix)
    }

    pub(super) fn password(&self, role: &str) -> String {
        hex::encode(hmac(
            &self.key,
            &[b"password of a plugin's login", role.as_bytes()],
        ))
    }

    /// The verifier that `CREATE ROLE … PASSWORD` accepts instead of the password, so that the
    /// password never appears in a log of the server (RFC 5803).
    pub(super) fn verifier(&self, role: &str) -> String {
        let salt = &hmac(&self.key, &[b"salt of a plugin's login", role.as_bytes()])[..16];
        verifier(self.password(role).as_bytes(), salt, SCRAM_ITERATIONS)
    }

    pub(super) fn outbox_mac(
        &self,
        plugin: &str,
        nonce: &[u8],
        issued_ms: i64,
        grants: &str,
        payload: &str,
    ) -> [u8; 32] {
        let parts: [&[u8]; 6] = [
            b"row of the outbox",
            plugin.as_bytes(),
            nonce,
            &issued_ms.to_be_bytes(),
            grants.as_bytes(),
            payload.as_bytes(),
        ];
        hmac(&self.key, &parts)
    }
}

fn verifier(password: &[u8], salt: &[u8], iterations: u32) -> String {
    // PBKDF2 with one block.
    let mut block = plain_hmac(password, &[salt, &1u32.to_be_bytes()].concat());
    let mut salted = block;
    for _ in 1..iterations {
        block = plain_hmac(password, &block);
        salted
            .iter_mut()
            .zip(block)
            .for_each(|(all, one)| *all ^= one);
    }
    let stored: [u8; 32] = Sha256::digest(plain_hmac(&salted, b"Client Key")).into();
    let server = plain_hmac(&salted, b"Server Key");
    let text = |bytes: &[u8]| STANDARD.encode(bytes);
    format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        text(salt),
        text(&stored),
        text(&server)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_is_that_of_the_standards_example() {
        // RFC 7677, section 3: user "user", password "pencil"; its server signature follows from
        // this server key.
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let text = verifier(b"pencil", &salt, 4_096);
        let (_, keys) = text.rsplit_once('$').expect("two parts");
        let (stored, server) = keys.split_once(':').expect("two keys");
        let message = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let server = STANDARD.decode(server).expect("base64");
        assert_eq!(
            STANDARD.encode(plain_hmac(&server, message.as_bytes())),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
        // The proof in the example is client key XOR signature; the hash of the client key is
        // stored.
        let stored = STANDARD.decode(stored).expect("base64");
        let proof = STANDARD
            .decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
            .expect("base64");
        let signature = plain_hmac(&stored, message.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        assert_eq!(Sha256::digest(&client_key).as_slice(), stored);
    }
}
