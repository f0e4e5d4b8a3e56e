//! Credentials that a guest hands over at run time. The host keeps them as secrets of the plugin
//! and puts them into requests (`http.send-with`); nothing gives them back.

use std::collections::{BTreeSet, HashMap};
use std::time::SystemTime;

use async_trait::async_trait;
use patchbay_model::capability::CapabilityError;
use patchbay_model::grant::Ask;
use patchbay_model::manifest::{CredentialsSpec, Manifest};
use patchbay_model::{CredentialName, InvalidId, PluginName};
use tracing::Instrument;
use zeroize::Zeroizing;

use crate::HostCall;
use crate::call::{Denied, Gate};
use crate::guest::{Answer, Guest, error};
use crate::secrets::SecretValue;

/// Most credentials per page.
const MAX_PAGE: u32 = 100;
/// Longest value of a field, in bytes.
const MAX_VALUE_BYTES: usize = 8 << 10;

/// What may be told of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialInfo {
    pub name: CredentialName,
    pub version: u32,
    pub set_at: SystemTime,
    /// To about half a minute.
    pub last_used_at: Option<SystemTime>,
}

/// Keeps credentials, sealed. What they hold is read from memory, as the secret
/// [`CredentialName::as_secret`].
#[async_trait]
pub trait CredentialStore: Send + Sync + 'static {
    /// Replaces at once; returns the version. When it returns, this process uses the value. One
    /// credential more than `max` is refused.
    async fn put(
        &self,
        plugin: &PluginName,
        name: &CredentialName,
        value: Zeroizing<String>,
        max: u32,
    ) -> Result<u32, CapabilityError>;

    /// Whether there was one.
    async fn remove(
        &self,
        plugin: &PluginName,
        name: &CredentialName,
    ) -> Result<bool, CapabilityError>;

    /// All of a plugin, sorted by name.
    async fn all(&self, plugin: &PluginName) -> Result<Vec<CredentialInfo>, CapabilityError>;
}

pub(crate) fn is_asked_for_by(manifest: &Manifest) -> bool {
    manifest.credentials.is_some()
}

/// What the manifest asks for and an operator has granted.
fn granted(gate: &Gate) -> Result<&CredentialsSpec, Denied> {
    let spec = gate.call().manifest.credentials.as_ref();
    let spec = spec.ok_or_else(|| Denied("the manifest has no [credentials]".into()))?;
    gate.granted(Ask::credentials(spec))?;
    Ok(spec)
}

fn covered(spec: &CredentialsSpec, name: &str) -> Result<CredentialName, CapabilityError> {
    let parsed: CredentialName = name
        .parse()
        .map_err(|error: InvalidId| CapabilityError::invalid(error.to_string()))?;
    if !spec.covers(&parsed) {
        return Err(CapabilityError::denied(format!(
            "the plugin may only keep credentials whose names begin with {:?}, with something after it",
            spec.prefix
        )));
    }
    Ok(parsed)
}

async fn put(
    gate: Gate,
    name: String,
    fields: Vec<(String, Zeroizing<String>)>,
) -> Result<u32, CapabilityError> {
    gate.not_in_transaction()?;
    let spec = granted(&gate)?;
    let name = covered(spec, &name)?;
    let value = sealed_form(spec, &fields)?;
    let (call, store) = (gate.call(), &gate.services().made.credentials);
    store
        .put(&call.manifest.name, &name, value, spec.max())
        .instrument(call.span.clone())
        .await
}

/// All fields as one JSON object.
fn sealed_form(
    spec: &CredentialsSpec,
    fields: &[(String, Zeroizing<String>)],
) -> Result<Zeroizing<String>, CapabilityError> {
    let names: BTreeSet<&String> = fields.iter().map(|(name, _)| name).collect();
    if names.len() != fields.len() || names != spec.fields.iter().collect::<BTreeSet<_>>() {
        let wanted: Vec<&str> = spec.fields.iter().map(String::as_str).collect();
        return Err(CapabilityError::invalid(format!(
            "a credential has exactly these fields, each once: {}",
            wanted.join(", ")
        )));
    }
    for (name, value) in fields {
        if value.is_empty() || value.len() > MAX_VALUE_BYTES {
            return Err(CapabilityError::invalid(format!(
                "the field {name} must have 1 to {MAX_VALUE_BYTES} bytes"
            )));
        }
    }
    let pairs: HashMap<&str, &str> = fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    serde_json::to_string(&pairs)
        .map(Zeroizing::new)
        .map_err(|_| CapabilityError::invalid("the fields cannot be kept"))
}

async fn remove(gate: Gate, name: String) -> Result<bool, CapabilityError> {
    gate.not_in_transaction()?;
    let name = covered(granted(&gate)?, &name)?;
    let (call, store) = (gate.call(), &gate.services().made.credentials);
    store
        .remove(&call.manifest.name, &name)
        .instrument(call.span.clone())
        .await
}

async fn page(
    gate: Gate,
    after: Option<String>,
    limit: u32,
) -> Result<Vec<CredentialInfo>, CapabilityError> {
    gate.not_in_transaction()?;
    granted(&gate)?;
    let (call, store) = (gate.call(), &gate.services().made.credentials);
    let all = store
        .all(&call.manifest.name)
        .instrument(call.span.clone())
        .await?;
    let after = after.unwrap_or_default();
    let limit = limit.clamp(1, MAX_PAGE) as usize;
    Ok(all
        .into_iter()
        .filter(|info| info.name.as_str() > after.as_str())
        .take(limit)
        .collect())
}

/// A credential that a call names, field by field.
pub(crate) struct Named(HashMap<String, SecretValue>);

impl Named {
    pub(crate) fn field(&self, name: &str) -> Option<SecretValue> {
        self.0.get(name).cloned()
    }
}

/// The credential of this name; the error is for the guest.
pub(crate) fn named(gate: &Gate, name: &str) -> Result<Named, Denied> {
    let name = covered(granted(gate)?, name).map_err(|error| Denied(error.message))?;
    let secret = name.as_secret();
    let kept = gate
        .services()
        .secrets
        .get(&gate.call().manifest.name, &secret);
    let kept = kept.ok_or_else(|| Denied(format!("no credential {name} is kept")))?;
    let fields: HashMap<String, String> = serde_json::from_str(kept.expose()).map_err(|_| {
        Denied(format!(
            "the credential {name} cannot be used: save it again"
        ))
    })?;
    let fields = fields
        .into_iter()
        .map(|(field, value)| (field, SecretValue::new(value)));
    Ok(Named(fields.collect()))
}

macro_rules! bind {
    ($version:ident) => {
        mod $version {
            use super::*;
            use patchbay_runtime::wit::$version::credentials::{Host, Info};

            fn info(info: CredentialInfo) -> Info {
                let ms = |at: SystemTime| {
                    let since = at.duration_since(SystemTime::UNIX_EPOCH);
                    since
                        .unwrap_or_default()
                        .as_millis()
                        .try_into()
                        .unwrap_or(0)
                };
                Info {
                    name: info.name.to_string(),
                    version: info.version,
                    set_at: ms(info.set_at),
                    last_used_at: info.last_used_at.map(ms),
                }
            }

            impl Host for Guest<'_> {
                async fn put(
                    &mut self,
                    name: String,
                    fields: Vec<(String, String)>,
                ) -> Answer<u32> {
                    let fields = fields
                        .into_iter()
                        .map(|(name, value)| (name, Zeroizing::new(value)))
                        .collect();
                    let put = |gate| put(gate, name, fields);
                    let put = self.through(HostCall::Credentials, put).await?;
                    Ok(put.map_err(error))
                }
                async fn remove(&mut self, name: String) -> Answer<bool> {
                    let remove = |gate| remove(gate, name);
                    let removed = self.through(HostCall::Credentials, remove).await?;
                    Ok(removed.map_err(error))
                }
                async fn page(&mut self, after: Option<String>, limit: u32) -> Answer<Vec<Info>> {
                    let page = move |gate| page(gate, after, limit);
                    let page = self.through(HostCall::Credentials, page).await?;
                    Ok(page
                        .map(|infos| infos.into_iter().map(info).collect())
                        .map_err(error))
                }
            }
        }
    };
}

bind!(v0_1);
bind!(v0_2);

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> CredentialsSpec {
        CredentialsSpec {
            prefix: "graphy-".into(),
            fields: ["mid", "key"].map(str::to_owned).into(),
            max: None,
        }
    }

    #[test]
    fn a_credential_has_each_field_of_the_manifest_once_with_a_value() {
        let form = |fields: &[(&str, &str)]| {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Zeroizing::new((*value).to_owned())))
                .collect();
            sealed_form(&spec(), &fields)
        };
        let kept = form(&[("key", "k\"1"), ("mid", "m")]).expect("fits");
        let kept: serde_json::Value = serde_json::from_str(&kept).expect("JSON");
        assert_eq!(kept, serde_json::json!({ "mid": "m", "key": "k\"1" }));
        for wrong in [
            &[("key", "k")][..],
            &[("key", "k"), ("mid", "m"), ("other", "o")],
            &[("key", "k"), ("key", "k"), ("mid", "m")],
            &[("key", ""), ("mid", "m")],
        ] {
            let error = form(wrong).expect_err("does not fit");
            assert_eq!(error.code, "invalid");
        }
    }

    #[test]
    fn names_outside_the_prefix_are_denied_and_secrets_names_are_never_the_same() {
        assert_eq!(
            covered(&spec(), "graphy-7").expect("covered").as_secret(),
            "KEPT_GRAPHY_7"
        );
        assert_eq!(
            covered(&spec(), "other-7").expect_err("not its own").code,
            "denied"
        );
        assert_eq!(
            covered(&spec(), "graphy-").expect_err("bare").code,
            "denied"
        );
        assert_eq!(
            covered(&spec(), "graphy-A_1").expect_err("odd").code,
            "invalid"
        );
        let name = CredentialName::of_secret("KEPT_GRAPHY_7").expect("one");
        assert_eq!(name.as_str(), "graphy-7");
    }
}
