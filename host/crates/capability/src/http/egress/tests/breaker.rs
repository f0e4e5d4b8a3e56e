//! What counts as a failure of an outside host.

use std::time::Instant;

use super::*;

/// A plugin whose breaker opens at the first failure.
struct Breaking {
    plugin: Plugin,
    breakers: Breakers,
}

impl Breaking {
    fn new(rule: EgressRule) -> Self {
        Self {
            plugin: Plugin::new(&[rule]),
            breakers: Breakers::default(),
        }
    }

    fn breaker(&self) -> Arc<crate::Breaker> {
        let host = patchbay_model::egress::breakers(&self.plugin.manifest.egress)
            .into_keys()
            .next()
            .expect("a rule");
        self.breakers.of(&self.plugin.manifest.name, &host)
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let limits = BreakerLimits {
            failures: 1,
            ..BreakerLimits::default()
        };
        let admit = |host: &str| {
            let breaker = self.breakers.of(&self.plugin.manifest.name, host);
            let later = Instant::now() + std::time::Duration::from_secs(60);
            breaker
                .admit(limits, later)
                .map_err(|refused| HttpError::BreakerOpen(refused.retry_in.as_millis() as u64))
        };
        let caller = Caller {
            admit: &admit,
            ..caller(RevisionDigest::of(b"test"), &self.plugin.manifest)
        };
        self.plugin.egress.send(caller, request).await
    }

    async fn opens_it(&self, request: HttpRequest) -> bool {
        let answer = self.send(request).await;
        assert!(
            !matches!(answer, Err(HttpError::BreakerOpen(_))),
            "{answer:?}"
        );
        !self.breaker().is_closed()
    }
}

#[tokio::test]
async fn only_5xx_among_the_answers_opens_it_and_then_nothing_is_sent() {
    for (status, expected) in [
        (200, false),
        (302, false),
        (400, false),
        (404, false),
        (429, false),
        (500, true),
        (503, true),
    ] {
        let server = Server::new(move |_| {
            StatusCode::from_u16(status)
                .expect("a status")
                .into_response()
        })
        .await;
        let breaking = Breaking::new(rule(server.url("/**"), None));
        assert_eq!(
            breaking.opens_it(get(server.url("/x"))).await,
            expected,
            "{status}"
        );
        let again = breaking.send(get(server.url("/x"))).await;
        assert_eq!(
            matches!(again, Err(HttpError::BreakerOpen(1..=15_000))),
            expected,
            "{again:?}"
        );
        assert_eq!(server.seen().len(), if expected { 1 } else { 2 });
    }
}

#[tokio::test]
async fn no_connection_no_name_no_tls_no_time_and_a_broken_connection_open_it() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port")
        .local_addr()
        .expect("an address");
    let silent = raw_server(Vec::new()).await;
    let half = raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec()).await;
    let plain = raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await;
    for url in [
        format!("http://{closed}/x"),
        "https://no-such-name.invalid/x".into(),
        format!("https://{plain}/x"),
        format!("http://{silent}/x"),
        format!("http://{half}/x"),
    ] {
        let breaking = Breaking::new(EgressRule {
            timeout_ms: Some(300),
            ..rule(url.clone(), None)
        });
        assert!(breaking.opens_it(get(url.clone())).await, "{url}");
    }
}

#[tokio::test]
async fn what_the_host_itself_refuses_does_not_open_it() {
    let server = Server::new(|_| "x".repeat(200_000).into_response()).await;
    let breaking = Breaking::new(rule(server.url("/**"), None));
    assert!(!breaking.opens_it(get(server.url("/too-large"))).await);
    assert!(!breaking.opens_it(get("http://127.0.0.1:9/no-rule")).await);
    let header = HttpRequest {
        headers: vec![("host".into(), b"other".to_vec())],
        ..get(server.url("/x"))
    };
    assert!(!breaking.opens_it(header).await);
    let closed = Breaking::new(EgressRule {
        allow_addresses: Vec::new(),
        ..rule(server.url("/**"), None)
    });
    assert!(!closed.opens_it(get(server.url("/blocked"))).await);
}

#[tokio::test]
async fn a_call_that_is_dropped_counts_only_when_the_guests_time_was_over() {
    let breaker = Breakers::default().of(&"test".parse().expect("a name"), "https://a.example:443");
    let limits = BreakerLimits {
        failures: 1,
        ..BreakerLimits::default()
    };
    let now = Instant::now();
    drop(
        breaker
            .admit(limits, now + std::time::Duration::from_secs(60))
            .expect("closed"),
    );
    assert!(breaker.is_closed());
    drop(breaker.admit(limits, now).expect("closed"));
    assert!(!breaker.is_closed());
}
