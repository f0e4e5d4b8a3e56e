//! The progress of the running job.

use patchbay_runtime::wit::{v0_1, v0_2};
use serde_json::Value;

use crate::guest::{Guest, HostResult};

fn report(guest: &Guest<'_>, value: String) {
    // BullMQ accepts a number or an object; anything else would break its readers.
    let usable = matches!(
        serde_json::from_str::<Value>(&value),
        Ok(Value::Number(_) | Value::Object(_))
    );
    if let Some(call) = guest.call().filter(|_| usable)
        && let Some(output) = &call.output
    {
        output.progress(value);
    }
}

macro_rules! bind {
    ($version:ident) => {
        impl $version::progress::Host for Guest<'_> {
            async fn report(&mut self, value: String) -> HostResult<()> {
                report(self, value);
                Ok(())
            }
        }
    };
}

bind!(v0_1);
bind!(v0_2);
