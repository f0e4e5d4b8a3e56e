//! Webhooks: whether a vendor's request is authentic, and which jobs it becomes.

/// The generated bindings of the world `webhook-plugin`; what it imports is that of
/// [`crate::bindings`].
#[allow(missing_docs, clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/v0.1",
        world: "webhook-plugin",
        pub_export_macro: true,
        export_macro_name: "export_webhook_bindings",
        default_bindings_module: "patchbay_plugin::webhooks::bindings",
        with: {
            "patchbay:plugin/types@0.1.1": crate::bindings::patchbay::plugin::types,
            "patchbay:plugin/log@0.1.1": crate::bindings::patchbay::plugin::log,
            "patchbay:plugin/progress@0.1.1": crate::bindings::patchbay::plugin::progress,
            "patchbay:plugin/settings@0.1.1": crate::bindings::patchbay::plugin::settings,
            "patchbay:plugin/secrets@0.1.1": crate::bindings::patchbay::plugin::secrets,
            "patchbay:plugin/http@0.1.1": crate::bindings::patchbay::plugin::http,
            "patchbay:plugin/sql@0.1.1": crate::bindings::patchbay::plugin::sql,
            "patchbay:plugin/kv@0.1.1": crate::bindings::patchbay::plugin::kv,
            "patchbay:plugin/queue@0.1.1": crate::bindings::patchbay::plugin::queue,
            "patchbay:plugin/flows@0.1.1": crate::bindings::patchbay::plugin::flows,
            "patchbay:plugin/smtp@0.1.1": crate::bindings::patchbay::plugin::smtp,
            "patchbay:plugin/audit@0.1.1": crate::bindings::patchbay::plugin::audit,
            "patchbay:plugin/schedules@0.1.1": crate::bindings::patchbay::plugin::schedules,
            "patchbay:plugin/credentials@0.1.1": crate::bindings::patchbay::plugin::credentials,
            "patchbay:plugin/accounts@0.1.1": crate::bindings::patchbay::plugin::accounts,
        },
    });
}

pub use bindings::exports::patchbay::plugin::webhooks::{
    Accepted, EventJob, Rejected, Reply, Request,
};

/// Judges requests to the plugin's webhooks.
pub trait Webhooks {
    /// Judges one. Only settings, secrets and the log answer here; a replay comes with the time at
    /// which the request first arrived.
    fn verify(request: Request) -> Result<Accepted, Rejected>;
}

/// Exports a type that implements [`Webhooks`].
#[macro_export]
macro_rules! export_webhooks {
    ($plugin:ty) => {
        // Elsewhere (unit tests) the exported names mean nothing to the linker.
        #[cfg(not(target_family = "wasm"))]
        const _: fn($crate::webhooks::Request) -> Result<$crate::webhooks::Accepted, $crate::webhooks::Rejected> =
            <$plugin as $crate::Webhooks>::verify;
        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Exported;
            impl $crate::webhooks::bindings::exports::patchbay::plugin::webhooks::Guest for Exported {
                fn verify(
                    request: $crate::webhooks::Request,
                ) -> Result<$crate::webhooks::Accepted, $crate::webhooks::Rejected> {
                    <$plugin as $crate::Webhooks>::verify(request)
                }
            }
            $crate::webhooks::bindings::export_webhook_bindings!(Exported with_types_in $crate::webhooks::bindings);
        };
    };
}

impl Rejected {
    /// With 400, 401, 403, 404, 410 or 422. The sender sees only the status.
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
        }
    }
}
