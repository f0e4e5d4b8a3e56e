//! Calls of plugins' operations by operators.

use patchbay_api::plugin_calls::{Call, CallRequest, PluginsCall};
use patchbay_model::PluginName;
use patchbay_model::operation::{Caller as GuestCaller, MAX_NAME, is_name};
use serde_json::json;
use uuid::Uuid;

use super::PluginAdministration;
use crate::actions::Caller;
use crate::error::{Error, Kind};
use crate::plugins::{Answer, Operation, RelayAs};

/// The same limit as for job data.
const MAX_INPUT_BYTES: usize = 1 << 20;

impl PluginAdministration {
    /// Calls an operation of a plugin's active revision.
    pub async fn call(
        &self,
        who: &Caller,
        name: &str,
        request: CallRequest,
    ) -> Result<Answer, Error> {
        let plugin: PluginName = name.parse()?;
        let CallRequest {
            call: Call { operation, input },
            idempotency_key,
            range,
        } = request;
        let operation = Operation {
            name: operation_name(operation)?,
            input: input.map_or_else(
                || "{}".into(),
                |input| String::from(Box::<str>::from(input)),
            ),
            headers: Vec::new(),
            deadline: None,
            caller: GuestCaller {
                role: Some("operator".into()),
                // Every request has one.
                platform: who.trace.platform.clone().unwrap_or_default(),
                correlation_id: who.trace.correlation_id.clone().unwrap_or_default(),
                idempotency_key: idempotency_key
                    .unwrap_or_else(|| Uuid::now_v7().simple().to_string()),
                ..GuestCaller::default()
            },
            relay: RelayAs::Whole { range },
        };
        if operation.input.len() > MAX_INPUT_BYTES {
            let message = format!(
                "input: {} bytes; the limit is {MAX_INPUT_BYTES}",
                operation.input.len()
            );
            return Err(Error::new(Kind::TooLarge, "too-large", message));
        }
        // Neither the input nor the answer is recorded: both may be personal.
        let details = json!({ "operation": operation.name });
        let act = self.plugins.call(&plugin, operation, who.trace.traceparent);
        let summary = |answer: &Answer| json!({ "answer": answer.body.kind() });
        self.actions
            .record_as::<PluginsCall, _>(who, name, details, act, summary)
            .await
    }
}

fn operation_name(name: String) -> Result<String, Error> {
    if is_name(&name) {
        return Ok(name);
    }
    Err(Error::invalid(format!(
        "operation: must have 1 to {MAX_NAME} characters: letters, digits and - _ . :"
    )))
}
