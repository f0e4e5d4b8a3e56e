//! `[telemetry]`: traces for a collector.

use percent_encoding::percent_decode_str;
use url::Url;

use super::general::General;
use super::key::{key, section};
use super::kind::{Form, Kind, items, list, ratio, scalar, web_url};
use patchbay_telemetry::traces::TraceConfig;

section! {
    /// Traces.
    pub struct Telemetry {
        /// Collector that takes traces by OTLP over HTTP, such as http://127.0.0.1:4318; unset: no
        /// traces
        otlp_endpoint: Option<Url> = key("telemetry.otlp_endpoint", collector()).old(&["OTEL_EXPORTER_OTLP_ENDPOINT"]);
        /// Headers of each request to the collector: name=value,name=value
        otlp_headers: Vec<(String, String)> =
            key("telemetry.otlp_headers", headers()).or_empty().old(&["OTEL_EXPORTER_OTLP_HEADERS"]).secret();
        /// Share of the traces that begin here which is sent; a trace that begins elsewhere is sent
        /// if it is sampled there
        sample_ratio: f64 = key("telemetry.sample_ratio", ratio()).default("1");
        /// Outside hosts to which plugins' calls send `traceparent`: your own services only
        propagate_to: Vec<String> = key("telemetry.propagate_to", list()).or_empty();
    }
}

fn collector() -> Kind<Url> {
    Kind::new(Form::Scalar, |given| match web_url(&given.text) {
        None => Err(format!(
            "{} {:?} is not an http:// or https:// URL",
            given.key, given.text
        )),
        Some(url) if !url.username().is_empty() || url.password().is_some() => Err(format!(
            "{} has a login: put credentials into telemetry.otlp_headers",
            given.key
        )),
        Some(url) => Ok(url),
    })
}

/// `name=value`, comma-separated and percent-encoded, as in OpenTelemetry's variables.
fn headers() -> Kind<Vec<(String, String)>> {
    scalar("must be a list of headers: name=value,name=value", |text| {
        let decoded = |text: &str| {
            percent_decode_str(text.trim())
                .decode_utf8_lossy()
                .into_owned()
        };
        let header = |text: &str| {
            text.split_once('=')
                .map(|(name, value)| (name.trim().to_owned(), decoded(value)))
        };
        items(text).map(header).collect()
    })
}

impl Telemetry {
    /// The collector, if there is one. `host` names this process.
    pub fn traces(&self, general: &General, host: &str) -> Option<TraceConfig> {
        Some(TraceConfig {
            endpoint: self.otlp_endpoint.clone()?,
            headers: self.otlp_headers.clone(),
            sample_ratio: *self.sample_ratio,
            propagate_to: self.propagate_to.clone(),
            environment: general.environment.clone(),
            host: host.to_owned(),
        })
    }
}
