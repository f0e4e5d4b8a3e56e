//! The operator's settings of the plugin: one snapshot for the whole call.

use patchbay_runtime::wit::{v0_1, v0_2};
use serde_json::Value;

use crate::guest::{Guest, HostResult};

fn get(guest: &Guest<'_>, name: &str) -> Option<String> {
    guest.call()?.call.settings.get(name).map(Value::to_string)
}

fn all(guest: &Guest<'_>) -> String {
    guest
        .call()
        .and_then(|call| serde_json::to_string(&*call.call.settings).ok())
        .unwrap_or_else(|| "{}".into())
}

macro_rules! bind {
    ($version:ident) => {
        impl $version::settings::Host for Guest<'_> {
            async fn get(&mut self, name: String) -> HostResult<Option<String>> {
                Ok(get(self, &name))
            }
            async fn all(&mut self) -> HostResult<String> {
                Ok(all(self))
            }
        }
    };
}

bind!(v0_1);
bind!(v0_2);
