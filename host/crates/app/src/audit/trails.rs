//! Writes entries of plugins to audit trails. An entry must fit its trail's schema; once written,
//! it is never changed.
//!
//! The schema is read from Postgres each time, so that a change applies to the next entry on every
//! host. It is compiled only when it has changed. While Postgres is away nothing is written, and
//! the plugin gets the error `unavailable`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use parking_lot::Mutex;
use patchbay_model::TrailName;
use patchbay_model::audit::{AuditTrails, MAX_ENTRY_LEVELS, NewAuditEntry, is_of_the_host};
use patchbay_model::capability::CapabilityError;
use patchbay_model::json_schema::{Schema, Values, depth};
use patchbay_store::{Store, StoreError};
use serde_json::Value;
use tokio::task::block_in_place;
use tracing::{error, warn};

/// Violations that an error lists.
const MAX_VIOLATIONS: usize = 5;

pub struct Trails {
    store: Store,
    /// Each compiled schema, with the JSON that it was made from.
    compiled: Mutex<HashMap<TrailName, (Value, Arc<Schema>)>>,
}

impl Trails {
    pub fn new(store: Store) -> Self {
        Self {
            store,
            compiled: Mutex::default(),
        }
    }

    async fn write(&self, entry: NewAuditEntry) -> Result<(), CapabilityError> {
        if is_of_the_host(entry.trail.as_str()) {
            return Err(CapabilityError::denied(
                "only the host writes to that audit trail",
            ));
        }
        let defined = self.store.audit_trail_definition(&entry.trail).await;
        let Some(trail) = defined.map_err(refused)? else {
            return Err(CapabilityError::invalid(format!(
                "No audit trail is called {name}. An operator creates it with: patchbay audit trail set {name} SCHEMA-FILE, or patchbay audit trail install FILE",
                name = entry.trail
            )));
        };
        let value: Value = serde_json::from_str(&entry.entry)
            .map_err(|error| CapabilityError::invalid(format!("The entry is not JSON: {error}")))?;
        if depth(&value) > MAX_ENTRY_LEVELS {
            return Err(CapabilityError::invalid(format!(
                "The entry nests more than {MAX_ENTRY_LEVELS} levels"
            )));
        }
        block_in_place(|| fits(&*self.compiled(&entry.trail, &trail.schema)?, &value))?;
        // What is stored is exactly what was checked: when a field name occurs twice, both readers
        // take the last one.
        let entry = NewAuditEntry {
            entry: value.to_string(),
            ..entry
        };
        let written = self.store.append_audit(&entry, &value, &trail).await;
        written.map(drop).map_err(refused)
    }

    fn compiled(&self, trail: &TrailName, schema: &Value) -> Result<Arc<Schema>, CapabilityError> {
        if let Some((_, compiled)) = self
            .compiled
            .lock()
            .get(trail)
            .filter(|(of, _)| of == schema)
        {
            return Ok(Arc::clone(compiled));
        }
        let compiled = Schema::new(schema).map_err(|reason| {
            error!(%trail, %reason, "the schema of an audit trail cannot be used");
            CapabilityError::unavailable(
                "The trail's schema cannot be used; the host's log says why",
            )
        })?;
        let compiled = Arc::new(compiled);
        self.compiled
            .lock()
            .insert(trail.clone(), (schema.clone(), Arc::clone(&compiled)));
        Ok(compiled)
    }
}

/// The error names what does not fit, never the values: the text becomes part of jobs' failures.
fn fits(schema: &Schema, entry: &Value) -> Result<(), CapabilityError> {
    schema
        .fits(entry, Values::Withheld, MAX_VIOLATIONS)
        .map_err(|violations| {
            CapabilityError::invalid(format!(
                "The entry does not fit the trail's schema: {violations}"
            ))
        })
}

fn refused(error: StoreError) -> CapabilityError {
    match error {
        StoreError::Unavailable(_) | StoreError::ReadOnly(_) => {
            CapabilityError::unavailable(error.to_string())
        }
        StoreError::Unstorable(_) | StoreError::NoSuchTime(_) | StoreError::Conflict(_) => {
            CapabilityError::invalid(error.to_string())
        }
        StoreError::Refused(_) => {
            CapabilityError::invalid("Postgres does not accept a value of the entry")
        }
        other => {
            warn!(error = %other, cause = ?std::error::Error::source(&other), "an audit entry was not written");
            CapabilityError::unavailable("The entry could not be written; the host's log says why")
        }
    }
}

#[async_trait]
impl AuditTrails for Trails {
    async fn append(&self, entry: NewAuditEntry, deadline: Instant) -> Result<(), CapabilityError> {
        let late = |_| CapabilityError {
            code: "timeout",
            message: "Postgres did not answer within the call's deadline".into(),
            retryable: true,
        };
        tokio::time::timeout_at(deadline.into(), self.write(entry))
            .await
            .unwrap_or_else(|elapsed| Err(late(elapsed)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_fit_is_named_without_its_value() {
        let schema = json!({
            "type": "object", "required": ["lead"], "additionalProperties": false,
            "properties": { "lead": { "type": "integer" } },
        });
        let schema = Schema::new(&schema).expect("a schema");
        assert_eq!(fits(&schema, &json!({ "lead": 7 })), Ok(()));
        let error = fits(&schema, &json!({ "lead": "asha@example.com" })).expect_err("text");
        assert_eq!(error.code, "invalid");
        assert!(
            error.message.contains("/lead: ") && !error.message.contains("asha"),
            "{}",
            error.message
        );
        let error = fits(&schema, &json!({ "surplus": 1 })).expect_err("incomplete");
        assert!(
            error.message.contains("lead") && error.message.contains("surplus"),
            "{}",
            error.message
        );
    }
}
