//! Writes the guest's log into the host's log, redacted and with its job.

use patchbay_runtime::wit::{v0_1, v0_2};
use patchbay_runtime::{LogLevel, MAX_LOG_LINE_BYTES};
use tracing::{debug, error, info, trace, warn};

use crate::call::GuestCall;
use crate::guest::{Guest, HostResult};

pub(crate) fn write(
    guest: &GuestCall,
    level: LogLevel,
    message: &str,
    fields: &[(String, String)],
) {
    let plugin = guest.call.manifest.name.as_str();
    let mut message = message.to_owned();
    if message.len() > MAX_LOG_LINE_BYTES {
        guest.mask().cut(&mut message, MAX_LOG_LINE_BYTES);
    }
    let fields = fields
        .iter()
        .map(|(name, value)| format!(" {name}={value}"))
        .collect::<String>();
    let (shown, shown_fields) = (
        guest.mask().text(&message),
        guest.mask().text(fields.trim_start()),
    );
    guest.call.span.in_scope(|| match level {
        LogLevel::Trace => trace!(target: "guest", plugin, fields = &*shown_fields, "{shown}"),
        LogLevel::Debug => debug!(target: "guest", plugin, fields = &*shown_fields, "{shown}"),
        LogLevel::Info => info!(target: "guest", plugin, fields = &*shown_fields, "{shown}"),
        LogLevel::Warn => warn!(target: "guest", plugin, fields = &*shown_fields, "{shown}"),
        LogLevel::Error => error!(target: "guest", plugin, fields = &*shown_fields, "{shown}"),
    });
    let label = match level {
        LogLevel::Trace | LogLevel::Debug => return,
        LogLevel::Info => "INFO",
        LogLevel::Warn => "WARN",
        LogLevel::Error => "ERROR",
    };
    if let Some(output) = &guest.output {
        output.line(format!("{label} {message}{fields}"));
    }
}

macro_rules! bind {
    ($version:ident) => {
        impl $version::log::Host for Guest<'_> {
            async fn write(
                &mut self,
                level: $version::log::Level,
                message: String,
                fields: Vec<(String, String)>,
            ) -> HostResult<()> {
                let level = match level {
                    $version::log::Level::Trace => LogLevel::Trace,
                    $version::log::Level::Debug => LogLevel::Debug,
                    $version::log::Level::Info => LogLevel::Info,
                    $version::log::Level::Warn => LogLevel::Warn,
                    $version::log::Level::Error => LogLevel::Error,
                };
                self.0.log(level, message, &fields);
                Ok(())
            }
        }
    };
}

bind!(v0_1);
bind!(v0_2);
