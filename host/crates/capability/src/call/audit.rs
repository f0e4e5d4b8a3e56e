//! Appending to the host's audit trails, within what is asked and granted.

use patchbay_model::audit::{MAX_ENTRY_BYTES, MAX_ENTRY_KEY_BYTES, NewAuditEntry};
use patchbay_model::capability::CapabilityError;
use patchbay_model::grant::Ask;
use tracing::Instrument;

use super::GuestCall;

impl GuestCall {
    pub(super) async fn append(&self, trail: &str, entry_key: String, entry: String) -> Result<(), CapabilityError> {
        self.refuse_in_transaction().map_err(CapabilityError::denied)?;
        let manifest = &self.call.manifest;
        let asked = manifest.audit.iter().flat_map(|spec| &spec.trails).find(|asked| asked.as_str() == trail);
        let Some(trail) = asked else {
            return Err(CapabilityError::denied("the manifest does not ask for that audit trail"));
        };
        self.check(Ask::audit(trail)).map_err(CapabilityError::denied)?;
        if entry_key.is_empty() || entry_key.len() > MAX_ENTRY_KEY_BYTES {
            return Err(CapabilityError::invalid(format!("an entry key has 1 to {MAX_ENTRY_KEY_BYTES} bytes")));
        }
        if entry.len() > MAX_ENTRY_BYTES {
            return Err(CapabilityError::too_large(format!("an entry has at most {MAX_ENTRY_BYTES} bytes")));
        }
        let entry = NewAuditEntry {
            trail: trail.clone(),
            entry_key,
            entry,
            plugin: manifest.name.clone(),
            revision: self.call.revision,
            job: self.job.as_ref().map(|job| job.key().clone()),
            correlation_id: self.call.trace.correlation_id.clone(),
        };
        let append = self.services.audit.append(entry, self.call.deadline);
        append.instrument(self.call.span.clone()).await
    }
}
