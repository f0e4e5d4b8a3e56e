use std::net::SocketAddr;

use axum::Router;
use axum::routing::{any, get};
use patchbay_model::manifest::EgressRule;

use super::*;

fn rule(url: String, auth: Option<EgressAuth>) -> EgressRule {
    EgressRule {
        url,
        methods: vec!["GET".into(), "POST".into()],
        auth,
        timeout_ms: Some(2_000),
        max_response_bytes: Some(1_000),
        allow_addresses: vec!["127.0.0.1".into()],
    }
}

fn request(url: String) -> HttpRequest {
    HttpRequest { method: "GET".into(), url, headers: Vec::new(), body: None, timeout: None }
}

fn no_secrets(_: &str) -> Option<SecretValue> {
    None
}

/// A real server on this machine.
async fn server() -> SocketAddr {
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let authorization = |headers: axum::http::HeaderMap| async move {
        headers.get("authorization").map(|value| value.to_str().unwrap_or_default().to_owned()).unwrap_or_default()
    };
    let app = Router::new()
        .route("/v1/echo", any(authorization))
        .route("/v1/large", get(|| async { vec![b'x'; 2_000] }))
        .route("/v1/away", get(|| async { axum::response::Redirect::temporary("http://127.0.0.1/elsewhere") }))
        .route("/v1/slow", get(|| async { std::future::pending::<()>().await }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn send(rule: EgressRule, request: HttpRequest) -> Result<HttpResponse, HttpError> {
    let egress = Egress::new(EgressConfig::default()).expect("a configuration");
    let secrets = |name: &str| Some(SecretValue::new(format!("value of {name}")));
    let revision = RevisionDigest::of(b"test");
    egress.send(revision, &[rule], &|_| Ok(()), &secrets, request, Some("c-1")).await
}

#[tokio::test]
async fn credentials_are_put_in_by_the_host_and_cannot_be_set_by_the_guest() {
    let address = server().await;
    let auth = || Some(EgressAuth::Bearer { token: "TOKEN".into() });
    let rule = || rule(format!("http://{address}/v1/**"), auth());
    let response = send(rule(), request(format!("http://{address}/v1/echo"))).await.expect("a response");
    assert_eq!(response.body, b"Bearer value of TOKEN");
    let mut forged = request(format!("http://{address}/v1/echo"));
    forged.headers.push(("Authorization".into(), b"Bearer mine".to_vec()));
    assert!(matches!(send(rule(), forged).await, Err(HttpError::Invalid(_))));
}

#[tokio::test]
async fn what_no_rule_names_is_denied_without_a_connection() {
    let address = server().await;
    let rule = || rule(format!("http://{address}/v1/**"), None);
    for url in
        [format!("http://{address}/v2/echo"), format!("http://{address}/v1/%2e%2e/x"), "http://example.com/v1/x".into()]
    {
        assert!(matches!(send(rule(), request(url)).await, Err(HttpError::Denied(_))));
    }
    let mut delete = request(format!("http://{address}/v1/echo"));
    delete.method = "DELETE".into();
    assert!(matches!(send(rule(), delete).await, Err(HttpError::Denied(_))));
}

#[tokio::test]
async fn private_addresses_are_denied_by_literal_and_by_name() {
    let address = server().await;
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("http://{host}:{}/v1/echo", address.port());
        let closed = EgressRule { allow_addresses: Vec::new(), ..rule(url.clone(), None) };
        let answer = send(closed, request(url)).await;
        assert!(matches!(answer, Err(HttpError::Denied(_))), "{host}: {answer:?}");
    }
}

#[tokio::test]
async fn responses_are_capped_and_redirects_returned_as_they_are() {
    let address = server().await;
    let rule = || rule(format!("http://{address}/v1/**"), None);
    let large = send(rule(), request(format!("http://{address}/v1/large"))).await;
    assert_eq!(large, Err(HttpError::TooLarge(1_000)));
    let away = send(rule(), request(format!("http://{address}/v1/away"))).await.expect("a response");
    assert_eq!(away.status, 307);
}

#[tokio::test]
async fn a_server_that_never_answers_is_a_timeout_and_a_closed_port_no_connection() {
    let address = server().await;
    let rule = || rule(format!("http://{address}/v1/**"), None);
    let mut slow = request(format!("http://{address}/v1/slow"));
    slow.timeout = Some(Duration::from_millis(50));
    assert_eq!(send(rule(), slow).await, Err(HttpError::Timeout(TimeoutPhase::AwaitingResponse)));
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let rule = self::rule(format!("http://{closed}/**"), None);
    let answer = send(rule, request(format!("http://{closed}/x"))).await;
    assert!(matches!(answer, Err(HttpError::Connect(_))), "{answer:?}");
}

#[tokio::test]
async fn a_secret_without_a_value_is_named_and_nothing_is_sent() {
    let address = server().await;
    let egress = Egress::new(EgressConfig::default()).expect("a configuration");
    let rule = rule(format!("http://{address}/v1/**"), Some(EgressAuth::Bearer { token: "TOKEN".into() }));
    let request = request(format!("http://{address}/v1/echo"));
    let revision = RevisionDigest::of(b"test");
    let answer = egress.send(revision, &[rule], &|_| Ok(()), &no_secrets, request, None).await;
    assert!(matches!(answer, Err(HttpError::Denied(text)) if text.contains("TOKEN")));
}
