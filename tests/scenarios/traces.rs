//! Traces as a collector gets them: one from an operator's request to a vendor's server, without
//! texts of vendors, clients or guests. A collector that is away or hangs delays nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::{any, post};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Content;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use redis::AsyncCommands;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::{Host, PASSWORD, USER, World, hostile_plugin_with, until, variant};
use crate::metrics::scrape;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CAUSE: &str = "00f067aa0ba902b7";

#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    resources: Arc<Mutex<Vec<HashMap<String, String>>>>,
    /// The raw bytes.
    bodies: Arc<Mutex<Vec<u8>>>,
    credentials: Arc<Mutex<Vec<String>>>,
}

fn attributes(attributes: &[KeyValue]) -> HashMap<String, String> {
    let text = |attribute: &KeyValue| match attribute
        .value
        .as_ref()
        .and_then(|value| value.value.as_ref())
    {
        Some(Content::StringValue(text)) => text.clone(),
        Some(Content::IntValue(number)) => number.to_string(),
        Some(Content::DoubleValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .iter()
        .map(|attribute| (attribute.key.clone(), text(attribute)))
        .collect()
}

impl Collector {
    async fn start() -> anyhow::Result<(Self, SocketAddr)> {
        let collector = Self::default();
        let taken = collector.clone();
        let take = async move |headers: HeaderMap, body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body.clone()).expect("what OTLP says");
            taken.bodies.lock().expect("no panic").extend(&body);
            let credential = headers
                .get("authorization")
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            taken
                .credentials
                .lock()
                .expect("no panic")
                .push(credential.to_owned());
            for of_resource in request.resource_spans {
                let resource = of_resource.resource.expect("a resource");
                taken
                    .resources
                    .lock()
                    .expect("no panic")
                    .push(attributes(&resource.attributes));
                let spans = of_resource
                    .scope_spans
                    .into_iter()
                    .flat_map(|scope| scope.spans);
                taken.spans.lock().expect("no panic").extend(spans);
            }
        };
        let address = serve(Router::new().route("/v1/traces", post(take))).await?;
        Ok((collector, address))
    }

    fn named(&self, name: &str) -> Option<Span> {
        self.spans
            .lock()
            .expect("no panic")
            .iter()
            .find(|span| span.name == name)
            .cloned()
    }

    async fn wait_for(&self, name: &str) -> anyhow::Result<Span> {
        until(
            Duration::from_secs(30),
            &format!("the span {name}"),
            async || Ok(self.named(name)),
        )
        .await
    }
}

async fn serve(app: Router) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

/// A vendor that remembers the headers it got.
async fn vendor() -> anyhow::Result<(Arc<Mutex<Vec<HeaderMap>>>, SocketAddr)> {
    let seen = Arc::<Mutex<Vec<HeaderMap>>>::default();
    let remembered = Arc::clone(&seen);
    let answer = async move |headers: HeaderMap| {
        remembered.lock().expect("no panic").push(headers);
        "r3sponse-text"
    };
    Ok((
        seen,
        serve(Router::new().route("/{*rest}", any(answer))).await?,
    ))
}

/// With long deadlines, so that calls on a busy machine are not cut off.
fn patient_plugin(vendor: SocketAddr) -> anyhow::Result<Vec<u8>> {
    hostile_plugin_with(|manifest| {
        let manifest = manifest.replace("deadline_ms = 200", "deadline_ms = 60_000");
        manifest.replace("127.0.0.1:9/", &format!("{vendor}/"))
    })
}

async fn add(host: &Host, job: Value, flags: &str) -> anyhow::Result<String> {
    let request = host
        .http
        .post(format!(
            "{}/api/admin/queues/hostileQueue/jobs?reason=qu3ry-note",
            host.url
        ))
        .json(&job);
    let (status, answer) = host
        .request(request.header("traceparent", format!("00-{TRACE}-{CAUSE}-{flags}")))
        .await?;
    ensure!(status == 200, "add: {status} {answer}");
    Ok(answer["data"]["id"].as_str().context("id")?.to_owned())
}

#[tokio::test]
async fn one_trace_goes_from_the_request_through_the_queue_to_the_outside_call_and_tells_nothing_else()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (collector, address) = Collector::start().await?;
    let (seen, vendor) = vendor().await?;
    let endpoint = format!("http://{address}/");
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20c0llector-key",
        ),
        ("PATCHBAY_SECRET_HOSTILE_TOKEN", "s3cret-t0ken"),
        ("NODE_ENV", "staging"),
    ];
    let host = world.host(&env).await?;
    host.deploy("hostile", patient_plugin(vendor)?).await?;
    let url = format!("http://{vendor}/allowed/p3rsonal-path?key=qu3ry-key");
    let id = add(
        &host,
        json!({ "name": "outside", "data": { "url": url }, "id": "p3rson-id" }),
        "01",
    )
    .await?;
    host.job_in("hostileQueue", &id, "completed").await?;

    let names = [
        "POST /api/admin/queues/{queue}/jobs",
        "enqueue hostileQueue",
        "attempt hostileQueue",
        "call hostile",
        "http",
    ];
    let mut parent = hex::decode(CAUSE)?;
    let mut spans = Vec::new();
    for name in names {
        let span = collector.wait_for(name).await?;
        assert_eq!(hex::encode(&span.trace_id), TRACE, "{name}");
        assert_eq!(
            hex::encode(&span.parent_span_id),
            hex::encode(&parent),
            "{name}"
        );
        assert!(
            span.end_time_unix_nano >= span.start_time_unix_nano && span.events.is_empty(),
            "{name}"
        );
        parent.clone_from(&span.span_id);
        spans.push(attributes(&span.attributes));
    }
    assert_eq!(spans[0]["http.response.status_code"], "200");
    assert_eq!(spans[2]["patchbay.outcome"], "completed");
    assert_eq!(
        (
            spans[3]["patchbay.plugin"].as_str(),
            spans[3]["patchbay.version"].as_str()
        ),
        ("hostile", "0.1.0")
    );
    let outside = [
        "http.request.method",
        "server.address",
        "http.response.status_code",
    ]
    .map(|name| &spans[4][name][..]);
    assert_eq!(outside, ["GET", "127.0.0.1", "200"]);
    let resource = collector.resources.lock().expect("no panic")[0].clone();
    assert_eq!(resource["service.name"], "patchbay");
    assert_eq!(resource["deployment.environment"], "staging");
    assert!(
        resource["service.instance.id"].contains(':') && resource["service.version"] == "0.1.0"
    );
    assert_eq!(
        collector.credentials.lock().expect("no panic")[0],
        "Bearer c0llector-key"
    );

    // As bullmq-otel writes it, for Node workers of the same queue.
    let opts: String = world
        .redis()
        .await?
        .hget(format!("{}:hostileQueue:{id}", world.prefix), "opts")
        .await?;
    let carrier: Value = serde_json::from_str(&opts)?;
    let carrier: Value = serde_json::from_str(carrier["tm"].as_str().context("tm")?)?;
    let enqueue = collector.named("enqueue hostileQueue").context("enqueue")?;
    assert_eq!(
        carrier["traceparent"],
        format!("00-{TRACE}-{}-01", hex::encode(enqueue.span_id))
    );
    assert!(
        host.log
            .lock()
            .expect("no panic")
            .contains("\"trace_id\":\""),
        "log lines name their trace"
    );
    let heads = seen.lock().expect("no panic").clone();
    assert!(
        !heads.is_empty() && heads.iter().all(|head| !head.contains_key("traceparent")),
        "vendors learn nothing"
    );

    // Only operators can make this host send anything.
    let bare = host
        .http
        .get(format!("{}/api/admin/plugins", host.url))
        .send()
        .await?;
    assert_eq!(bare.status(), 401);
    let bodies = collector.bodies.lock().expect("no panic").clone();
    let bodies = String::from_utf8_lossy(&bodies);
    for hidden in [
        "s3cret-t0ken",
        "p3rson",
        "qu3ry",
        "r3sponse-text",
        "c0llector-key",
        "/allowed",
        PASSWORD,
        USER,
        &world.prefix,
        "postgres://",
    ] {
        assert!(!bodies.contains(hidden), "{hidden} is in\n{bodies}");
    }
    let page = scrape(&host).await?;
    assert!(page.value("patchbay_trace_spans_total", &[("result", "sent")])? >= 5.0);
    Ok(())
}

#[tokio::test]
async fn sampling_is_its_beginner_s_and_deployments_are_always_marked() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (collector, address) = Collector::start().await?;
    let (seen, vendor) = vendor().await?;
    let endpoint = format!("http://{address}");
    let env = [
        ("PATCHBAY_TELEMETRY_OTLP_ENDPOINT", endpoint.as_str()),
        ("PATCHBAY_TELEMETRY_SAMPLE_RATIO", "0"),
        ("PATCHBAY_TELEMETRY_PROPAGATE_TO", "127.0.0.1"),
    ];
    let host = world.host(&env).await?;
    let first = host.deploy("hostile", patient_plugin(vendor)?).await?;
    let second = host
        .deploy("hostile", variant(&patient_plugin(vendor)?, "next"))
        .await?;
    let job = json!({ "name": "outside", "data": { "url": format!("http://{vendor}/x") } });
    for id in [
        host.add("hostileQueue", job.clone()).await?,
        add(&host, job.clone(), "00").await?,
    ] {
        host.job_in("hostileQueue", &id, "completed").await?;
    }
    let parents = || {
        let heads = seen.lock().expect("no panic").clone();
        let text = |head: &HeaderMap| head["traceparent"].to_str().unwrap_or_default().to_owned();
        heads.iter().map(text).collect::<Vec<_>>()
    };
    let parent = parents();
    assert!(
        parent.iter().all(|parent| parent.ends_with("-00")),
        "not sampled, and said so: {parent:?}"
    );
    let id = add(&host, job, "01").await?;
    host.job_in("hostileQueue", &id, "completed").await?;
    let outside = collector.wait_for("http").await?;
    assert_eq!(
        parents()[2],
        format!("00-{TRACE}-{}-01", hex::encode(&outside.span_id)),
        "a host of the operator's"
    );

    collector.wait_for("call hostile").await?;
    let all = collector.spans.lock().expect("no panic").clone();
    let marks: Vec<_> = all
        .iter()
        .filter(|span| span.name == "revision takes over")
        .collect();
    let marked: Vec<_> = marks
        .iter()
        .map(|span| attributes(&span.attributes)["patchbay.revision"].clone())
        .collect();
    assert_eq!(marked, [&first[..12], &second[..12]]);
    let mut others = all.iter().filter(|span| span.name != "revision takes over");
    assert!(
        others.all(|span| hex::encode(&span.trace_id) == TRACE),
        "{all:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_collector_that_hangs_slows_neither_jobs_nor_the_stop() -> anyhow::Result<()> {
    let world = World::new().await?;
    // Accepts connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let host = world
        .host(&[("PATCHBAY_TELEMETRY_OTLP_ENDPOINT", endpoint.as_str())])
        .await?;
    host.deploy("hostile", patient_plugin(([127, 0, 0, 1], 9).into())?)
        .await?;
    let started = Instant::now();
    let mut jobs = 0;
    until(
        Duration::from_secs(60),
        "spans that are given up",
        async || {
            let id = host.add("hostileQueue", json!({ "name": "echo" })).await?;
            host.job_in("hostileQueue", &id, "completed").await?;
            jobs += 1;
            let failed = scrape(&host)
                .await?
                .value("patchbay_trace_spans_total", &[("result", "failed")])?;
            Ok((failed > 0.0).then_some(()))
        },
    )
    .await?;
    let mean = started.elapsed() / jobs;
    assert!(mean < Duration::from_secs(1), "a job took {mean:?}");
    let log = host.log.lock().expect("no panic").clone();
    assert_eq!(
        log.matches("The trace collector does not accept spans")
            .count(),
        1,
        "said once"
    );
    let stopping = Instant::now();
    assert!(host.stop().await?.success());
    assert!(
        stopping.elapsed() < Duration::from_secs(10),
        "{:?}",
        stopping.elapsed()
    );
    drop(listener);
    Ok(())
}

#[tokio::test]
async fn a_request_to_a_route_is_a_trace_of_its_own_with_route_and_revision() -> anyhow::Result<()>
{
    let world = World::new().await?;
    let (collector, address) = Collector::start().await?;
    let endpoint = format!("http://{address}");
    let host = world
        .host(&[("PATCHBAY_TELEMETRY_OTLP_ENDPOINT", endpoint.as_str())])
        .await?;
    let routes = json!([{ "id": "show", "method": "GET", "path": "/api/leads/{id}", "access": "public", "operation": "stamp.1",
        "response_headers": ["x-stamp"] }]);
    let plugin = crate::plugin_routes::plugin("crm", routes)?;
    let digest = host.deploy("crm", plugin).await?;
    let request = host.http.get(format!("{}/api/leads/4711", host.url));
    let request = request.header("traceparent", format!("00-{TRACE}-{CAUSE}-01"));
    ensure!(request.send().await?.status() == 200);
    let span = collector.wait_for("GET /api/leads/{id}").await?;
    let of = attributes(&span.attributes);
    for (name, value) in [
        ("http.route", "/api/leads/{id}"),
        ("http.response.status_code", "200"),
        ("patchbay.plugin", "crm"),
        ("patchbay.route", "show"),
        ("patchbay.revision", &digest[..12]),
    ] {
        assert_eq!(of.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_ne!(
        hex::encode(&span.trace_id),
        TRACE,
        "a client decides nothing"
    );
    let call = collector.wait_for("call crm").await?;
    assert_eq!(call.parent_span_id, span.span_id);
    let bodies = collector.bodies.lock().expect("no panic").clone();
    assert!(!String::from_utf8_lossy(&bodies).contains("4711"));
    Ok(())
}
