use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Issues `token-1`, `token-2`, … at /token; all other paths accept the tokens in `good`.
async fn service(expires_in: i64, good: &'static [&'static str]) -> Server {
    let issued = Arc::new(AtomicUsize::new(0));
    Server::new(move |request| {
        if request.uri.path() == "/token" {
            let token = format!("token-{}", issued.fetch_add(1, Ordering::SeqCst) + 1);
            let body =
                json!({ "access_token": token, "token_type": "Bearer", "expires_in": expires_in });
            return axum::Json(body).into_response();
        }
        let token = request
            .header("authorization")
            .and_then(|text| text.strip_prefix("Bearer "))
            .unwrap_or_default();
        if good.contains(&token) {
            "fine".into_response()
        } else {
            StatusCode::UNAUTHORIZED.into_response()
        }
    })
    .await
}

fn plugin(server: &Server, token_url: String) -> Plugin {
    let auth = EgressAuth::OAuth2 {
        token_url,
        client_id: "ID".into(),
        client_secret: "SECRET".into(),
        scope: Some("calls sms".into()),
    };
    Plugin::new(&[rule(server.url("/api/**"), Some(auth))])
}

fn paths(server: &Server) -> Vec<String> {
    server
        .seen()
        .iter()
        .map(|seen| seen.uri.to_string())
        .collect()
}

#[tokio::test]
async fn a_token_is_fetched_once_and_used_until_it_expires() {
    let server = service(3600, &["token-1"]).await;
    let plugin = plugin(&server, server.url("/token"));
    for _ in 0..3 {
        assert_eq!(
            plugin
                .send(get(server.url("/api/x")))
                .await
                .expect("a response")
                .body,
            b"fine"
        );
    }
    assert_eq!(paths(&server), ["/token", "/api/x", "/api/x", "/api/x"]);
    let fetch = &server.seen()[0];
    assert_eq!(
        (fetch.method.as_str(), fetch.body().as_str()),
        ("POST", "grant_type=client_credentials&scope=calls+sms")
    );
    // "v4lue%2Bof%2FID%3F:v4lue%2Bof%2FSECRET%3F"
    let expected = "Basic djRsdWUlMkJvZiUyRklEJTNGOnY0bHVlJTJCb2YlMkZTRUNSRVQlM0Y=";
    assert_eq!(fetch.header("authorization"), Some(expected));
}

#[tokio::test]
async fn an_expired_token_is_fetched_anew() {
    let server = service(0, &["token-1", "token-2"]).await;
    let plugin = plugin(&server, server.url("/token"));
    for _ in 0..2 {
        assert_eq!(
            plugin
                .send(get(server.url("/api/x")))
                .await
                .expect("a response")
                .status,
            200
        );
    }
    assert_eq!(paths(&server), ["/token", "/api/x", "/token", "/api/x"]);
}

#[tokio::test]
async fn a_refused_token_is_fetched_anew_once_and_the_request_sent_again() {
    let server = service(3600, &["token-2"]).await;
    let plugin = plugin(&server, server.url("/token"));
    let request = || post(server.url("/api/x"), "text/plain", "the body");
    assert_eq!(
        plugin.send(request()).await.expect("a response").body,
        b"fine"
    );
    assert_eq!(paths(&server), ["/token", "/api/x", "/token", "/api/x"]);
    assert_eq!(server.last().body(), "the body");
    assert_eq!(
        plugin.send(request()).await.expect("a response").body,
        b"fine"
    );
    assert_eq!(paths(&server).len(), 5, "the new token is kept");
}

#[tokio::test]
async fn a_service_that_refuses_new_tokens_too_gives_its_401_to_the_guest() {
    let server = service(3600, &[]).await;
    let answer = plugin(&server, server.url("/token"))
        .send(get(server.url("/api/x")))
        .await;
    assert_eq!(answer.expect("a response").status, 401);
    assert_eq!(paths(&server), ["/token", "/api/x", "/token", "/api/x"]);
}

#[tokio::test]
async fn calls_at_the_same_time_share_one_fetch() {
    let server = service(3600, &["token-1"]).await;
    let plugin = Arc::new(plugin(&server, server.url("/token")));
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (plugin, url) = (Arc::clone(&plugin), server.url("/api/x"));
            tokio::spawn(async move { plugin.send(get(url)).await })
        })
        .collect();
    for call in calls {
        assert_eq!(
            call.await.expect("no panic").expect("a response").status,
            200
        );
    }
    assert_eq!(
        paths(&server)
            .iter()
            .filter(|path| *path == "/token")
            .count(),
        1
    );
}

#[tokio::test]
async fn a_rotated_client_secret_makes_the_old_token_useless() {
    let server = service(3600, &["token-1", "token-2"]).await;
    let plugin = plugin(&server, server.url("/token"));
    plugin
        .send(get(server.url("/api/x")))
        .await
        .expect("a response");
    let rotated = |name: &str| Some(SecretValue::new(format!("new {name}")));
    plugin
        .send_with(&rotated, get(server.url("/api/x")))
        .await
        .expect("a response");
    assert_eq!(paths(&server), ["/token", "/api/x", "/token", "/api/x"]);
}

#[tokio::test]
async fn what_goes_wrong_at_the_token_endpoint_is_typed_and_free_of_secrets() {
    let echo = |request: &Seen| {
        let text = format!(
            "{} {}",
            request.header("authorization").unwrap_or_default(),
            value("SECRET")
        );
        match request.uri.path() {
            "/refused" => (
                StatusCode::UNAUTHORIZED,
                axum::Json(json!({ "error": "invalid_client", "d": text })),
            )
                .into_response(),
            "/broken" => (StatusCode::INTERNAL_SERVER_ERROR, text).into_response(),
            "/away" => axum::response::Redirect::temporary("/token").into_response(),
            "/odd" => text.into_response(),
            _ => "x".repeat(100_000).into_response(),
        }
    };
    let server = Server::new(echo).await;
    for (path, expected) in [
        (
            "/refused",
            "denied: the token endpoint refuses the client credentials (invalid_client)",
        ),
        (
            "/broken",
            "connect: the token endpoint answered with status 500",
        ),
        ("/away", "the token endpoint answered with status 307"),
        (
            "/odd",
            "the token endpoint's answer cannot be used: it has no access_token",
        ),
        (
            "/large",
            "the token endpoint's answer cannot be used: it is too large",
        ),
    ] {
        let error = plugin(&server, server.url(path))
            .send(get(server.url("/api/x")))
            .await
            .expect_err(path);
        assert_eq!(error.to_string(), expected, "{path}");
    }
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port")
        .local_addr()
        .expect("an address");
    let error = plugin(&server, format!("http://{closed}/token"))
        .send(get(server.url("/api/x")))
        .await;
    assert!(matches!(error, Err(HttpError::Connect(_))), "{error:?}");
    let silent = raw_server(Vec::new()).await;
    let slow = HttpRequest {
        timeout: Some(Duration::from_millis(50)),
        ..get(server.url("/api/x"))
    };
    let error = plugin(&server, format!("http://{silent}/token"))
        .send(slow)
        .await;
    assert_eq!(
        error,
        Err(HttpError::Timeout(TimeoutPhase::Connecting)),
        "the guest's request was not sent"
    );
    assert!(!paths(&server).contains(&"/api/x".to_owned()));
}

#[tokio::test]
async fn whoever_waited_for_a_failed_fetch_does_not_try_again_at_once() {
    let server = Server::new(|_| (StatusCode::UNAUTHORIZED, "").into_response()).await;
    let plugin = Arc::new(plugin(&server, server.url("/token")));
    let call = || {
        let (plugin, url) = (Arc::clone(&plugin), server.url("/api/x"));
        async move { plugin.send(get(url)).await }
    };
    let answers = tokio::join!(call(), call(), call(), call());
    for answer in [answers.0, answers.1, answers.2, answers.3] {
        assert!(matches!(answer, Err(HttpError::Denied(_))), "{answer:?}");
    }
    assert_eq!(server.seen().len(), 1);
    assert!(call().await.is_err());
    assert_eq!(server.seen().len(), 2, "whoever comes later does");
}

#[tokio::test]
async fn the_token_endpoint_goes_through_the_same_address_checks() {
    let server = service(3600, &["token-1"]).await;
    let port = server.address.port();
    let auth = EgressAuth::OAuth2 {
        token_url: format!("https://login.example:{port}/token"),
        client_id: "ID".into(),
        client_secret: "SECRET".into(),
        scope: None,
    };
    let lookup = Scripted::new(&[&["169.254.169.254", "127.0.0.2", "::ffff:10.0.0.1"]]);
    let plugin = Plugin::resolving(&[rule(server.url("/api/**"), Some(auth))], lookup.clone());
    let answer = plugin.send(get(server.url("/api/x"))).await;
    assert!(
        matches!(&answer, Err(HttpError::Denied(text)) if text.contains("login.example")),
        "{answer:?}"
    );
    assert_eq!(lookup.asked(), ["login.example"]);
    let auth = EgressAuth::OAuth2 {
        token_url: "https://169.254.169.254/token".into(),
        client_id: "ID".into(),
        client_secret: "SECRET".into(),
        scope: None,
    };
    let answer = send(
        rule(server.url("/api/**"), Some(auth)),
        get(server.url("/api/x")),
    )
    .await;
    assert!(
        matches!(&answer, Err(HttpError::Denied(text)) if text.contains("169.254.169.254")),
        "{answer:?}"
    );
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_response_that_repeats_the_token_or_the_clients_secret_is_withheld() {
    for echoed in ["a-long-token".to_owned(), value("SECRET")] {
        let server = Server::new(move |request| match request.uri.path() {
            "/token" => {
                axum::Json(json!({ "access_token": "a-long-token", "token_type": "bearer" }))
                    .into_response()
            }
            _ => format!("<{echoed}>").into_response(),
        })
        .await;
        let answer = plugin(&server, server.url("/token"))
            .send(get(server.url("/api/x")))
            .await;
        assert_eq!(answer, Err(HttpError::Denied(ECHOED.into())));
    }
}

#[tokio::test]
async fn a_response_that_repeats_the_token_that_was_refused_before_is_withheld_too() {
    let issued = Arc::new(AtomicUsize::new(0));
    let server =
        Server::new(
            move |request| match (request.uri.path(), request.header("authorization")) {
                ("/token", _) => {
                    let token =
                        format!("a-long-token-{}", issued.fetch_add(1, Ordering::SeqCst) + 1);
                    axum::Json(json!({ "access_token": token, "token_type": "bearer" }))
                        .into_response()
                }
                (_, Some("Bearer a-long-token-1")) => StatusCode::UNAUTHORIZED.into_response(),
                _ => "and a-long-token-1 was refused".into_response(),
            },
        )
        .await;
    let answer = plugin(&server, server.url("/token"))
        .send(get(server.url("/api/x")))
        .await;
    assert_eq!(answer, Err(HttpError::Denied(ECHOED.into())));
}
