//! Appends entries to the host's audit trails.

use patchbay_model::audit::{MAX_ENTRY_BYTES, MAX_ENTRY_KEY_BYTES, NewAuditEntry};
use patchbay_model::capability::CapabilityError;
use patchbay_model::grant::Ask;
use patchbay_model::manifest::Manifest;
use patchbay_runtime::wit::{v0_1, v0_2};
use tracing::Instrument;

use crate::HostCall;
use crate::call::Gate;
use crate::guest::{Answer, Guest, error};

pub(crate) fn is_asked_for_by(manifest: &Manifest) -> bool {
    manifest.audit.is_some()
}

async fn append(
    gate: Gate,
    trail: String,
    entry_key: String,
    entry: String,
) -> Result<(), CapabilityError> {
    gate.not_in_transaction()?;
    let call = gate.call();
    let mut asked = call.manifest.audit.iter().flat_map(|spec| &spec.trails);
    let Some(trail) = asked.find(|asked| asked.as_str() == trail) else {
        return Err(CapabilityError::denied(
            "the manifest does not ask for that audit trail",
        ));
    };
    gate.granted(Ask::audit(trail))?;
    if entry_key.is_empty() || entry_key.len() > MAX_ENTRY_KEY_BYTES {
        return Err(CapabilityError::invalid(format!(
            "an entry key must have 1 to {MAX_ENTRY_KEY_BYTES} bytes"
        )));
    }
    if entry.len() > MAX_ENTRY_BYTES {
        return Err(CapabilityError::too_large(format!(
            "an entry can have at most {MAX_ENTRY_BYTES} bytes"
        )));
    }
    let entry = NewAuditEntry {
        trail: trail.clone(),
        entry_key,
        entry,
        plugin: call.manifest.name.clone(),
        revision: call.revision,
        job: call.job.as_ref().map(|job| job.key().clone()),
        correlation_id: call.trace.correlation_id.clone(),
    };
    gate.services()
        .audit
        .append(entry, call.deadline)
        .instrument(call.span.clone())
        .await
}

macro_rules! bind {
    ($version:ident) => {
        impl $version::audit::Host for Guest<'_> {
            async fn append(
                &mut self,
                trail: String,
                entry_key: String,
                entry: String,
            ) -> Answer<()> {
                let append = |gate| append(gate, trail, entry_key, entry);
                Ok(self.through(HostCall::Audit, append).await?.map_err(error))
            }
        }
    };
}

bind!(v0_1);
bind!(v0_2);
