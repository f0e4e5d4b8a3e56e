//! Secrets of the plugin. A guest may sign with them, and check whether a value matches one. It
//! never gets their values.

mod value;

use std::sync::atomic::Ordering;

use patchbay_model::capability::CapabilityError;
use patchbay_model::grant::Ask;
use patchbay_runtime::wit::{v0_1, v0_2};

use crate::call::Gate;
use crate::guest::{Answer, Guest, HostResult, error};

pub use value::{HashKind, SecretSource, SecretValue};

/// Most guesses at a secret per call: enough for a rotation, too few for a search.
const MAX_TRIES: u32 = 8;

/// All current versions, the newest first; at least one.
pub(crate) fn current(gate: &Gate, name: &str) -> Result<Vec<SecretValue>, CapabilityError> {
    let current = find(gate, name);
    if current.is_err() {
        gate.guest().lacks_secret.store(true, Ordering::Relaxed);
    }
    current
}

fn find(gate: &Gate, name: &str) -> Result<Vec<SecretValue>, CapabilityError> {
    let manifest = &gate.call().manifest;
    if !manifest.secrets.iter().any(|secret| secret.name == name) {
        return Err(CapabilityError::denied(format!(
            "the manifest does not ask for the secret {name}"
        )));
    }
    gate.granted(Ask::secret(name))?;
    let versions = gate.services().secrets.current(&manifest.name, name);
    if versions.is_empty() {
        return Err(CapabilityError {
            code: "not-configured",
            message: format!("the secret {name} has no value"),
            retryable: false,
        });
    }
    Ok(versions)
}

fn verify_hmac(
    gate: &Gate,
    name: &str,
    hash: HashKind,
    data: &[u8],
    mac: &[u8],
) -> Result<bool, CapabilityError> {
    let versions = current(gate, name)?;
    // All are tried, so that the time does not show which one matches.
    Ok(versions.iter().fold(false, |fits, version| {
        fits | version.verify(hash, data, mac)
    }))
}

fn sign_hmac(
    gate: &Gate,
    name: &str,
    hash: HashKind,
    data: &[u8],
) -> Result<Vec<u8>, CapabilityError> {
    Ok(current(gate, name)?[0].sign(hash, data))
}

fn matches(gate: &Gate, name: &str, candidate: &[u8]) -> Result<bool, CapabilityError> {
    let versions = current(gate, name)?;
    if gate.guest().secret_tries.fetch_add(1, Ordering::Relaxed) >= MAX_TRIES {
        return Err(CapabilityError::denied(format!(
            "a call can make at most {MAX_TRIES} tries"
        )));
    }
    Ok(versions
        .iter()
        .fold(false, |fits, version| fits | version.matches(candidate)))
}

macro_rules! bind {
    ($version:ident) => {
        impl From<$version::secrets::Hash> for HashKind {
            fn from(hash: $version::secrets::Hash) -> Self {
                match hash {
                    $version::secrets::Hash::Sha1 => Self::Sha1,
                    $version::secrets::Hash::Sha256 => Self::Sha256,
                    $version::secrets::Hash::Sha512 => Self::Sha512,
                }
            }
        }

        impl $version::secrets::Host for Guest<'_> {
            async fn is_configured(&mut self, name: String) -> HostResult<bool> {
                Ok(self.at_once(|gate| current(gate, &name)).is_ok())
            }
            async fn verify_hmac(
                &mut self,
                name: String,
                hash: $version::secrets::Hash,
                data: Vec<u8>,
                mac: Vec<u8>,
            ) -> Answer<bool> {
                Ok(self
                    .at_once(|gate| verify_hmac(gate, &name, hash.into(), &data, &mac))
                    .map_err(error))
            }
            async fn sign_hmac(
                &mut self,
                name: String,
                hash: $version::secrets::Hash,
                data: Vec<u8>,
            ) -> Answer<Vec<u8>> {
                Ok(self
                    .at_once(|gate| sign_hmac(gate, &name, hash.into(), &data))
                    .map_err(error))
            }
            async fn matches(&mut self, name: String, candidate: Vec<u8>) -> Answer<bool> {
                Ok(self
                    .at_once(|gate| matches(gate, &name, &candidate))
                    .map_err(error))
            }
        }
    };
}

bind!(v0_1);
bind!(v0_2);
