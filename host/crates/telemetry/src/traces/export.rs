//! Sends ended spans to the collector: OTLP over HTTP, as protobuf, one batch at a time.
//!
//! Does not use the SDK's batch processor: that has its own thread for a blocking client, and does
//! not report what it dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use patchbay_model::address::is_loopback;
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::TraceConfig;

/// Most ended spans that wait: some megabytes. Further ones are dropped.
const MAX_WAITING: usize = 4_096;
const MAX_BATCH: usize = 512;
/// From the first span of a batch until the batch is sent.
const DELAY: Duration = Duration::from_secs(1);
/// Limit of one request, including its answer.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// Limit for what is left at the end of the process.
const LAST_LIMIT: Duration = Duration::from_secs(2);

/// Counts of ended spans since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// The collector accepted them.
    pub sent: AtomicU64,
    /// The collector did not answer in time, or refused them.
    pub failed: AtomicU64,
    /// They came faster than they could be sent.
    pub dropped: AtomicU64,
}

/// Takes ended spans; never waits.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: mpsc::Sender<SpanData>,
    counts: Arc<Counts>,
}

pub struct Exporter {
    counts: Arc<Counts>,
    sending: Mutex<Sending>,
}

struct Sending {
    spans: mpsc::Receiver<SpanData>,
    /// Taken from there, and not sent yet.
    batch: Vec<SpanData>,
    sender: Sender,
}

/// What comes out of the processor is sent by the exporter, once that runs.
pub(super) fn new(config: &TraceConfig, resource: &Resource) -> anyhow::Result<(Outbox, Exporter)> {
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-protobuf"),
    );
    for (name, value) in &config.headers {
        // The message leaves out the value: it is a credential.
        let invalid = || {
            format!("telemetry.otlp_headers: {name:?} or its value is not valid in an HTTP header")
        };
        let mut value = HeaderValue::from_str(value).with_context(invalid)?;
        value.set_sensitive(true);
        headers.insert(
            HeaderName::from_bytes(name.as_bytes()).with_context(invalid)?,
            value,
        );
    }
    let redirect = reqwest::redirect::Policy::none();
    let mut http = reqwest::Client::builder();
    if is_loopback(config.endpoint.as_str()) {
        http = http.no_proxy();
    }
    let http = http
        .timeout(SEND_LIMIT)
        .redirect(redirect)
        .default_headers(headers)
        .build()?;
    let mut url = config.endpoint.clone();
    url.set_path(&format!("{}/v1/traces", url.path().trim_end_matches('/')));
    let (waiting, spans) = mpsc::channel(MAX_WAITING);
    let counts = Arc::<Counts>::default();
    let sender = Sender {
        http,
        url,
        resource: resource.into(),
        counts: Arc::clone(&counts),
        is_away: false,
    };
    let sending = Mutex::new(Sending {
        spans,
        batch: Vec::new(),
        sender,
    });
    Ok((
        Outbox {
            waiting,
            counts: Arc::clone(&counts),
        },
        Exporter { counts, sending },
    ))
}

impl SpanProcessor for Outbox {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.waiting.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Exporter {
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Sends until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut sending = self.sending.lock().await;
        let Sending {
            spans,
            batch,
            sender,
        } = &mut *sending;
        while stop
            .run_until_cancelled(collect(spans, batch))
            .await
            .is_some()
        {
            let too_late = async {
                stop.cancelled().await;
                tokio::time::sleep(LAST_LIMIT).await;
            };
            tokio::select! {
                () = sender.send(std::mem::take(batch)) => {}
                () = too_late => return,
            }
        }
    }

    /// Sends what is left, within 2 s. To be called once [`Exporter::run`] has ended.
    pub async fn end(&self) {
        let left = async {
            let mut sending = self.sending.lock().await;
            let Sending {
                spans,
                batch,
                sender,
            } = &mut *sending;
            while let Ok(span) = spans.try_recv() {
                batch.push(span);
                if batch.len() >= MAX_BATCH {
                    sender.send(std::mem::take(batch)).await;
                }
            }
            if !batch.is_empty() {
                sender.send(std::mem::take(batch)).await;
            }
        };
        if tokio::time::timeout(LAST_LIMIT, left).await.is_err() {
            warn!("The trace collector did not accept the last spans in time");
        }
    }
}

struct Sender {
    http: reqwest::Client,
    url: url::Url,
    resource: ResourceAttributesWithSchema,
    counts: Arc<Counts>,
    /// Whether the collector is unreachable, so that this is logged once.
    is_away: bool,
}

impl Sender {
    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(batch, &self.resource),
        };
        let sent = self
            .http
            .post(self.url.clone())
            .body(request.encode_to_vec())
            .send()
            .await;
        let reason = match sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answered with {}", response.status())),
            Err(error) => Some(error.without_url().to_string()),
        };
        let failed = reason.is_some();
        if failed {
            &self.counts.failed
        } else {
            &self.counts.sent
        }
        .fetch_add(count, Ordering::Relaxed);
        match (reason, self.is_away) {
            (Some(reason), false) => warn!(
                reason,
                spans = count,
                "The trace collector does not accept spans; they are dropped"
            ),
            (Some(reason), true) => debug!(reason, spans = count, "spans dropped"),
            (None, true) => info!("The trace collector accepts spans again"),
            (None, false) => {}
        }
        self.is_away = failed;
    }
}

/// Waits for a span, then some time for more.
async fn collect(spans: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) {
    if spans.recv_many(batch, MAX_BATCH).await == 0 {
        // All senders are gone: no span can come.
        return std::future::pending().await;
    }
    let more = async {
        while batch.len() < MAX_BATCH && spans.recv_many(batch, MAX_BATCH - batch.len()).await > 0 {
        }
    };
    // A cancelled `recv_many` has taken nothing.
    tokio::time::timeout(DELAY, more).await.ok();
}
