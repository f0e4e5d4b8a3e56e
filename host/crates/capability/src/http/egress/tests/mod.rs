//! Egress tests against real servers on this machine.

mod addresses;
mod breaker;
mod credentials;
mod oauth2;
mod requests;
mod responses;
mod tls;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use patchbay_model::breaker::BreakerLimits;
use patchbay_model::capability::TimeoutPhase;
use patchbay_model::manifest::EgressAuth;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::Breakers;

#[derive(Debug, Clone)]
struct Seen {
    peer: SocketAddr,
    method: String,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn body(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Remembers the requests that it got.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    async fn silent() -> Self {
        Self::new(|_| StatusCode::NO_CONTENT.into_response()).await
    }

    async fn new(answer: impl Fn(&Seen) -> Response + Clone + Send + Sync + 'static) -> Self {
        Self::listening(
            TcpListener::bind("127.0.0.1:0").await.expect("a port"),
            answer,
        )
    }

    fn listening(
        listener: TcpListener,
        answer: impl Fn(&Seen) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        install_tls();
        let address = listener.local_addr().expect("an address");
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let handler = {
            let seen = Arc::clone(&seen);
            move |ConnectInfo(peer): ConnectInfo<SocketAddr>,
                  method: axum::http::Method,
                  uri: Uri,
                  headers: HeaderMap,
                  body: Bytes| async move {
                let request = Seen {
                    peer,
                    method: method.to_string(),
                    uri,
                    headers,
                    body,
                };
                let response = answer(&request);
                seen.lock().push(request);
                response
            }
        };
        let app = Router::new()
            .fallback(handler)
            .into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, seen }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    fn last(&self) -> Seen {
        self.seen().pop().expect("a request")
    }
}

/// Answers each connection with these bytes, and keeps it open.
async fn raw_server(bytes: Vec<u8>) -> SocketAddr {
    install_tls();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut connection, _)) = listener.accept().await {
            let _request = connection.read(&mut [0; 4_096]).await;
            let _gone = connection.write_all(&bytes).await;
            open.push(connection);
        }
    });
    address
}

fn install_tls() {
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn rule(url: impl Into<String>, auth: Option<EgressAuth>) -> EgressRule {
    EgressRule {
        url: url.into(),
        methods: vec!["GET".into(), "POST".into()],
        auth,
        timeout_ms: Some(5_000),
        max_response_bytes: Some(100_000),
        max_relay_bytes: None,
        allow_addresses: vec!["127.0.0.1".into()],
        breaker: None,
    }
}

fn get(url: impl Into<String>) -> HttpRequest {
    HttpRequest {
        method: "GET".into(),
        url: url.into(),
        headers: Vec::new(),
        body: None,
        timeout: None,
    }
}

fn post(url: impl Into<String>, content_type: &str, body: &str) -> HttpRequest {
    let headers = vec![("content-type".to_owned(), content_type.as_bytes().to_vec())];
    HttpRequest {
        method: "POST".into(),
        headers,
        body: Some(body.into()),
        ..get(url)
    }
}

/// Parsed and checked as a plugin's manifest.
fn manifest(rules: &[EgressRule]) -> Arc<Manifest> {
    let secrets: Vec<_> = ["TOKEN", "USER", "PASSWORD", "ID", "SECRET"]
        .map(|name| json!({ "name": name }))
        .into();
    let manifest = json!({
        "format": 1, "name": "test", "version": "1.0.0", "wit": "0.1", "secrets": secrets, "egress": rules,
        "credentials": { "prefix": "school-", "fields": ["mid", "key"] },
    });
    Arc::new(Manifest::from_packed(manifest.to_string().as_bytes()).expect("a manifest"))
}

/// The value of the secret with this name. It has characters that encodings change.
fn value(name: &str) -> String {
    format!("v4lue+of/{name}?")
}

const GRANTED: fn(&EgressRule) -> Result<(), String> = |_| Ok(());

/// A breaker without failures.
const ADMITTED: fn(&str) -> Result<Admission, HttpError> = |host| {
    let breaker = Breakers::default().of(&"test".parse().expect("a name"), host);
    Ok(breaker
        .admit(BreakerLimits::default(), std::time::Instant::now())
        .expect("closed"))
};

/// A caller that may do everything, has every secret, and whose breakers are closed.
fn caller(revision: RevisionDigest, manifest: &Arc<Manifest>) -> Caller<'_> {
    Caller {
        revision,
        manifest,
        permitted: &GRANTED,
        admit: &ADMITTED,
        secrets: &known,
        correlation_id: None,
    }
}

fn known(name: &str) -> Option<SecretValue> {
    Some(SecretValue::new(value(name)))
}

struct Plugin {
    egress: Egress,
    manifest: Arc<Manifest>,
}

impl Plugin {
    fn new(rules: &[EgressRule]) -> Self {
        Self::resolving(rules, Arc::new(System))
    }

    fn resolving(rules: &[EgressRule], lookup: Arc<dyn Lookup>) -> Self {
        install_tls();
        let egress = Egress::with_lookup(EgressConfig::default(), lookup).expect("a configuration");
        Self {
            egress,
            manifest: manifest(rules),
        }
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.send_with(&known, request).await
    }

    async fn send_with(
        &self,
        secrets: Secrets<'_>,
        request: HttpRequest,
    ) -> Result<HttpResponse, HttpError> {
        let caller = caller(RevisionDigest::of(b"test"), &self.manifest);
        self.egress
            .send(
                Caller {
                    secrets,
                    correlation_id: Some("c-1"),
                    ..caller
                },
                request,
            )
            .await
    }
}

async fn send(rule: EgressRule, request: HttpRequest) -> Result<HttpResponse, HttpError> {
    Plugin::new(&[rule]).send(request).await
}

/// A resolver that follows a script: one entry per query; the last entry is repeated.
#[derive(Default)]
struct Scripted {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: Mutex<Vec<String>>,
}

impl Scripted {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |texts: &&[&str]| {
            texts
                .iter()
                .map(|text| text.parse().expect("an address"))
                .collect()
        };
        Arc::new(Self {
            answers: Mutex::new(answers.iter().map(parse).collect()),
            asked: Mutex::default(),
        })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

#[async_trait::async_trait]
impl Lookup for Scripted {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.lock().push(host.to_owned());
        let mut answers = self.answers.lock();
        let answer = if answers.len() > 1 {
            answers.pop_front()
        } else {
            answers.front().cloned()
        };
        answer.ok_or_else(|| io::Error::other("no such name"))
    }
}
