use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::*;

/// 4 MiB of zeros.
const BROTLI_BOMB: &[u8] = b"\x9b\xff\xff\x3f\xf8\x27\x00\xe2\xb1\x40\x20\xf7\xfe\x07";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

async fn encoded(coding: &'static str, body: Vec<u8>) -> Server {
    Server::new(move |_| ([("content-encoding", coding)], body.clone()).into_response()).await
}

async fn fetch(server: &Server) -> Result<HttpResponse, HttpError> {
    send(rule(server.url("/**"), None), get(server.url("/x"))).await
}

#[tokio::test]
async fn a_body_beyond_the_cap_is_refused_and_one_at_the_cap_is_not() {
    let server = Server::new(|request| {
        let length = if request.uri.path() == "/large" {
            100_001
        } else {
            100_000
        };
        vec![b'x'; length].into_response()
    })
    .await;
    let plugin = Plugin::new(&[rule(server.url("/**"), None)]);
    assert_eq!(
        plugin.send(get(server.url("/large"))).await,
        Err(HttpError::TooLarge(100_000))
    );
    assert_eq!(
        plugin
            .send(get(server.url("/fits")))
            .await
            .expect("a response")
            .body
            .len(),
        100_000
    );
}

#[tokio::test]
async fn decompression_bombs_end_at_the_cap() {
    let zeros = vec![0; 64 << 20];
    for (coding, bomb) in [
        ("gzip", gzip(&zeros)),
        ("deflate", zlib(&zeros)),
        ("br", BROTLI_BOMB.to_vec()),
    ] {
        assert!(bomb.len() < 100_000, "small on the wire");
        assert_eq!(
            fetch(&encoded(coding, bomb).await).await,
            Err(HttpError::TooLarge(100_000)),
            "{coding}"
        );
    }
}

#[tokio::test]
async fn compressed_bodies_arrive_decompressed() {
    for (coding, body) in [("gzip", gzip(b"hello")), ("deflate", zlib(b"hello"))] {
        let response = fetch(&encoded(coding, body).await)
            .await
            .expect("a response");
        assert_eq!(response.body, b"hello");
        assert!(
            response
                .headers
                .iter()
                .all(|(name, _)| name != "content-encoding")
        );
    }
}

#[tokio::test]
async fn content_codings_that_the_host_cannot_read_are_refused() {
    for (coding, body) in [
        ("zstd", b"\x28\xb5\x2f\xfd".to_vec()),
        ("gzip, gzip", gzip(&gzip(b"hello"))),
        ("mine", b"x".to_vec()),
    ] {
        assert!(
            matches!(
                fetch(&encoded(coding, body).await).await,
                Err(HttpError::Other(_))
            ),
            "{coding}"
        );
    }
    let server = encoded("identity", b"hello".to_vec()).await;
    let mut request = get(server.url("/x"));
    request
        .headers
        .push(("Accept-Encoding".into(), b"zstd, mine".to_vec()));
    assert_eq!(
        send(rule(server.url("/**"), None), request)
            .await
            .expect("a response")
            .body,
        b"hello"
    );
    let offered = server
        .last()
        .header("accept-encoding")
        .expect("the host's own")
        .to_owned();
    assert!(
        !offered.contains("zstd") && !offered.contains("mine"),
        "{offered}"
    );
}

#[tokio::test]
async fn a_broken_compressed_body_is_an_error() {
    let mut body = gzip(&[7; 1_000]);
    body.truncate(12);
    assert_eq!(
        fetch(&encoded("gzip", body).await).await,
        Err(HttpError::Interrupted(true))
    );
}

#[tokio::test]
async fn slow_servers_end_by_the_clock() {
    // Long enough that a busy machine has read the head by then; all at once, so that it costs
    // that time once.
    let limit = Duration::from_secs(1);
    let cases = [
        (&b""[..], TimeoutPhase::AwaitingResponse),
        (
            b"HTTP/1.1 200 OK\r\ncontent-",
            TimeoutPhase::AwaitingResponse,
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfew",
            TimeoutPhase::ReadingBody,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nfew\r\n",
            TimeoutPhase::ReadingBody,
        ),
    ];
    let mut each = tokio::task::JoinSet::new();
    for (sent, phase) in cases {
        each.spawn(async move {
            let server = raw_server(sent.to_vec()).await;
            let rule = rule(format!("http://{server}/**"), None);
            let request = HttpRequest {
                timeout: Some(limit),
                ..get(format!("http://{server}/x"))
            };
            assert_eq!(
                send(rule.clone(), request).await,
                Err(HttpError::Timeout(phase))
            );
            let short = EgressRule {
                timeout_ms: Some(1_000),
                ..rule
            };
            let patient = HttpRequest {
                timeout: Some(Duration::from_secs(60)),
                ..get(format!("http://{server}/x"))
            };
            assert_eq!(
                send(short, patient).await,
                Err(HttpError::Timeout(phase)),
                "a guest cannot raise the rule's limit"
            );
        });
    }
    each.join_all().await;
}

#[tokio::test]
async fn responses_that_are_not_http_are_errors() {
    for sent in [
        "no http at all\r\n\r\n",
        "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
    ] {
        let server = raw_server(sent.into()).await;
        let answer = send(
            rule(format!("http://{server}/**"), None),
            get(format!("http://{server}/x")),
        )
        .await;
        assert!(
            matches!(answer, Err(HttpError::Interrupted(_))),
            "{sent:?}: {answer:?}"
        );
    }
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port")
        .local_addr()
        .expect("an address");
    let answer = send(
        rule(format!("http://{closed}/**"), None),
        get(format!("http://{closed}/x")),
    )
    .await;
    assert!(matches!(answer, Err(HttpError::Connect(_))), "{answer:?}");
}

#[tokio::test]
async fn redirects_are_returned_and_never_followed() {
    let server = Server::new(|request| {
        let to = match request.uri.path() {
            "/metadata" => "http://169.254.169.254/latest/meta-data/",
            "/file" => "file:///etc/passwd",
            _ => "/v1/elsewhere",
        };
        (StatusCode::FOUND, [("location", to)]).into_response()
    })
    .await;
    let plugin = Plugin::new(&[rule(
        server.url("/**"),
        Some(EgressAuth::Bearer {
            token: "TOKEN".into(),
        }),
    )]);
    for path in ["/metadata", "/file", "/same"] {
        let response = plugin
            .send(get(server.url(path)))
            .await
            .expect("a response");
        assert_eq!(response.status, 302);
        assert!(response.headers.iter().any(|(name, _)| name == "location"));
    }
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_redirect_that_repeats_a_credential_of_the_query_is_withheld() {
    let server = Server::new(|request| {
        axum::response::Redirect::to(&format!("{}/", request.uri)).into_response()
    })
    .await;
    let auth = EgressAuth::Query {
        name: "key".into(),
        value: "TOKEN".into(),
    };
    let answer = send(rule(server.url("/**"), Some(auth)), get(server.url("/x"))).await;
    assert_eq!(answer, Err(HttpError::Denied(ECHOED.into())));
}

#[tokio::test]
async fn a_response_that_repeats_a_credential_is_withheld_in_every_encoding() {
    let secret = value("TOKEN");
    let percent: String = secret.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let spellings = [
        secret.clone(),
        format!("{{\"authorization\":\"Bearer {secret}\"}}"),
        STANDARD.encode(&secret),
        STANDARD.encode(format!("x{secret}yz")),
        STANDARD.encode(format!("xy{secret}z")),
        URL_SAFE_NO_PAD.encode(format!("xy{secret}")),
        percent,
        "q=v4lue%2Bof%2FTOKEN%3F".to_owned(),
    ];
    for spelling in spellings {
        for place in ["body", "header", "gzip"] {
            let text = spelling.clone();
            let server = Server::new(move |_| match place {
                "header" => ([("x-debug", text.clone())], "").into_response(),
                "gzip" => ([("content-encoding", "gzip")], gzip(text.as_bytes())).into_response(),
                _ => Body::from(format!("<html>{text}</html>")).into_response(),
            })
            .await;
            let auth = Some(EgressAuth::Bearer {
                token: "TOKEN".into(),
            });
            let answer = send(rule(server.url("/**"), auth), get(server.url("/x"))).await;
            assert_eq!(
                answer,
                Err(HttpError::Denied(ECHOED.into())),
                "{spelling} in the {place}"
            );
        }
    }
}

#[tokio::test]
async fn of_a_refusal_that_repeats_a_credential_only_the_status_arrives() {
    for status in [400_u16, 401, 502] {
        let server = Server::new(move |request| {
            let status = StatusCode::from_u16(status).expect("a status");
            let page = format!("<html>{} is refused</html>", request.uri);
            (status, [("x-debug", request.uri.to_string())], page).into_response()
        })
        .await;
        let auth = EgressAuth::Query {
            name: "key".into(),
            value: "TOKEN".into(),
        };
        let answer = send(rule(server.url("/**"), Some(auth)), get(server.url("/x"))).await;
        let answer = answer.expect("a response");
        assert_eq!((answer.status, answer.headers.len()), (status, 0));
        assert_eq!(answer.body, ECHOED.as_bytes());
    }
}

#[tokio::test]
async fn an_echo_of_basic_credentials_or_of_a_form_is_withheld() {
    let server = Server::new(|request| {
        format!("{:?} {}", request.header("authorization"), request.body()).into_response()
    })
    .await;
    let basic = EgressAuth::Basic {
        username: "USER".into(),
        password: "PASSWORD".into(),
    };
    let answer = send(rule(server.url("/**"), Some(basic)), get(server.url("/x"))).await;
    assert_eq!(answer, Err(HttpError::Denied(ECHOED.into())));
    let form = EgressAuth::Form {
        name: "key".into(),
        value: "TOKEN".into(),
    };
    let rule = EgressRule {
        methods: vec!["POST".into()],
        ..rule(server.url("/**"), Some(form))
    };
    let answer = send(
        rule,
        post(server.url("/x"), "application/x-www-form-urlencoded", "a=1"),
    )
    .await;
    assert_eq!(answer, Err(HttpError::Denied(ECHOED.into())));
}

#[tokio::test]
async fn the_operator_reads_which_rule_was_echoed_and_never_the_value() {
    let log: Arc<Mutex<Vec<u8>>> = Arc::default();
    let writer = {
        let log = Arc::clone(&log);
        move || Shared(Arc::clone(&log))
    };
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(writer)
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let server =
        Server::new(|request| format!("{:?}", request.header("authorization")).into_response())
            .await;
    let auth = Some(EgressAuth::Bearer {
        token: "TOKEN".into(),
    });
    let answer = send(rule(server.url("/**"), auth), get(server.url("/x"))).await;
    assert_eq!(answer, Err(HttpError::Denied(ECHOED.into())));
    drop(guard);
    let log = String::from_utf8(log.lock().clone()).expect("text");
    assert!(
        log.contains(ECHOED) && log.contains(&server.url("/**")) && log.contains("plugin=test"),
        "{log}"
    );
    assert!(!log.contains(&value("TOKEN")), "{log}");
}

struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
