//! Key-value storage in Redis: the plugin's own space, or one that plugins share.

use std::time::Duration;

use patchbay_model::capability::CapabilityError;
use patchbay_model::grant::Ask;
use patchbay_model::manifest::Manifest;
use patchbay_runtime::wit::{v0_1, v0_2};

use crate::HostCall;
use crate::call::{Gate, redis_error};
use crate::guest::{Answer, Guest, error};

const MAX_VALUE_BYTES: usize = 1 << 20;
const MAX_KEY_BYTES: usize = 512;
/// For values that a manifest gives no time to live.
const DEFAULT_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longer times are shortened to this: what must stay longer belongs in Postgres, and Redis has an
/// upper limit, too.
const MAX_TTL: Duration = Duration::from_secs(366 * 24 * 3600);

pub(crate) fn is_asked_for_by(manifest: &Manifest) -> bool {
    manifest.kv.is_some()
}

async fn get(gate: Gate, key: String) -> Result<Option<Vec<u8>>, CapabilityError> {
    gate.services()
        .kv
        .get(&in_space(&gate, &key)?)
        .await
        .map_err(redis_error)
}

async fn set(
    gate: Gate,
    key: String,
    value: Vec<u8>,
    ttl_ms: Option<u64>,
) -> Result<(), CapabilityError> {
    value_fits(&value)?;
    gate.services()
        .kv
        .set(&in_space(&gate, &key)?, &value, ttl(&gate, ttl_ms))
        .await
        .map_err(redis_error)
}

async fn set_if_absent(
    gate: Gate,
    key: String,
    value: Vec<u8>,
    ttl_ms: Option<u64>,
) -> Result<bool, CapabilityError> {
    value_fits(&value)?;
    gate.services()
        .kv
        .set_if_absent(&in_space(&gate, &key)?, &value, ttl(&gate, ttl_ms))
        .await
        .map_err(redis_error)
}

async fn delete(gate: Gate, key: String) -> Result<bool, CapabilityError> {
    gate.services()
        .kv
        .delete(&in_space(&gate, &key)?)
        .await
        .map_err(redis_error)
}

async fn increment(
    gate: Gate,
    key: String,
    by: i64,
    ttl_ms: Option<u64>,
) -> Result<i64, CapabilityError> {
    gate.services()
        .kv
        .increment(&in_space(&gate, &key)?, by, ttl(&gate, ttl_ms))
        .await
        .map_err(redis_error)
}

/// The key in the plugin's own space, or in a shared one that the manifest names.
fn in_space(gate: &Gate, key: &str) -> Result<String, CapabilityError> {
    gate.not_in_transaction()?;
    let manifest = &gate.call().manifest;
    let Some(spec) = &manifest.kv else {
        return Err(CapabilityError::denied("the manifest does not ask for kv"));
    };
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(CapabilityError::invalid(format!(
            "a key must have 1 to {MAX_KEY_BYTES} bytes"
        )));
    }
    if let Some(prefix) = spec
        .prefixes
        .iter()
        .find(|prefix| key.starts_with(prefix.as_str()))
    {
        gate.granted(Ask::shared_kv(prefix))?;
        return Ok(format!("shared:{key}"));
    }
    gate.granted(Ask::kv())?;
    Ok(format!("plugin:{}:{key}", manifest.name))
}

fn ttl(gate: &Gate, ttl_ms: Option<u64>) -> Duration {
    let default = gate
        .call()
        .manifest
        .kv
        .as_ref()
        .and_then(|spec| spec.default_ttl_s)
        .map(Duration::from_secs);
    ttl_ms
        .map(Duration::from_millis)
        .or(default)
        .unwrap_or(DEFAULT_TTL)
        .min(MAX_TTL)
}

fn value_fits(value: &[u8]) -> Result<(), CapabilityError> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(CapabilityError::too_large(format!(
            "a value can have at most {MAX_VALUE_BYTES} bytes"
        )));
    }
    Ok(())
}

macro_rules! bind {
    ($version:ident) => {
        impl $version::kv::Host for Guest<'_> {
            async fn get(&mut self, key: String) -> Answer<Option<Vec<u8>>> {
                Ok(self
                    .through(HostCall::Kv, |gate| get(gate, key))
                    .await?
                    .map_err(error))
            }
            async fn set(&mut self, key: String, value: Vec<u8>, ttl: Option<u64>) -> Answer<()> {
                Ok(self
                    .through(HostCall::Kv, move |gate| set(gate, key, value, ttl))
                    .await?
                    .map_err(error))
            }
            async fn set_if_absent(
                &mut self,
                key: String,
                value: Vec<u8>,
                ttl: Option<u64>,
            ) -> Answer<bool> {
                Ok(self
                    .through(HostCall::Kv, move |gate| {
                        set_if_absent(gate, key, value, ttl)
                    })
                    .await?
                    .map_err(error))
            }
            async fn delete(&mut self, key: String) -> Answer<bool> {
                Ok(self
                    .through(HostCall::Kv, |gate| delete(gate, key))
                    .await?
                    .map_err(error))
            }
            async fn increment(&mut self, key: String, by: i64, ttl: Option<u64>) -> Answer<i64> {
                Ok(self
                    .through(HostCall::Kv, move |gate| increment(gate, key, by, ttl))
                    .await?
                    .map_err(error))
            }
        }
    };
}

bind!(v0_1);
bind!(v0_2);
