//! Outside services that repeat what they were sent, as often as they can.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

struct Answers {
    /// For the answers that repeat nothing.
    harmless: String,
    access_token: String,
    seen: Arc<Mutex<String>>,
}

/// A web service and its token endpoint.
pub struct Vendor {
    pub address: SocketAddr,
    seen: Arc<Mutex<String>>,
}

impl Vendor {
    pub async fn start(harmless: &str, access_token: &str) -> anyhow::Result<Self> {
        let seen: Arc<Mutex<String>> = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let answers = Arc::new(Answers {
            harmless: harmless.into(),
            access_token: access_token.into(),
            seen: Arc::clone(&seen),
        });
        let handler = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let answers = Arc::clone(&answers);
            async move { answers.to(&method, &uri, &headers, &body).await }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        Ok(Self { address, seen })
    }

    /// Everything that it was sent.
    pub fn seen(&self) -> String {
        self.seen.lock().expect("no panic").clone()
    }
}

impl Answers {
    /// The last segment of the path selects the kind of answer.
    async fn to(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Response {
        let mut request = format!("{method} {uri}\n").into_bytes();
        for (name, value) in headers {
            request.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat());
        }
        request.extend_from_slice(body);
        self.seen
            .lock()
            .expect("no panic")
            .push_str(&String::from_utf8_lossy(&request));
        let percent = percent_encode(&request, NON_ALPHANUMERIC).to_string();
        match uri.path().rsplit('/').next().unwrap_or_default() {
            "token" => {
                let token = json!({ "access_token": self.access_token, "token_type": "Bearer", "expires_in": 3600 });
                axum::Json(token).into_response()
            }
            "refusing-token" => {
                let text = String::from_utf8_lossy(&request);
                let error = json!({ "error": "invalid_client", "error_description": text });
                (
                    StatusCode::UNAUTHORIZED,
                    [("x-echo", percent)],
                    axum::Json(error),
                )
                    .into_response()
            }
            "raw" => request.into_response(),
            "percent" => percent.into_response(),
            "base64" => STANDARD.encode(&request).into_response(),
            "json" => {
                axum::Json(json!({ "you-sent": String::from_utf8_lossy(&request) })).into_response()
            }
            "header" => ([("x-echo", percent)], "").into_response(),
            "redirect" => {
                (StatusCode::FOUND, [("location", format!("/raw?{percent}"))]).into_response()
            }
            "error" => (StatusCode::INTERNAL_SERVER_ERROR, request).into_response(),
            "unauthorized" => (
                StatusCode::UNAUTHORIZED,
                [("www-authenticate", percent)],
                request,
            )
                .into_response(),
            // The connection ends after the repeated text.
            "cut" => {
                let pieces = [Ok(Bytes::from(request)), Err(std::io::Error::other("cut"))];
                Body::from_stream(futures::stream::iter(pieces)).into_response()
            }
            "slow" => std::future::pending().await,
            "hook" => (StatusCode::NOT_FOUND, request).into_response(),
            _ => ([("x-answer", self.harmless.clone())], self.harmless.clone()).into_response(),
        }
    }
}

/// A mail server that repeats the login in every reply.
pub struct MailServer {
    pub address: SocketAddr,
    pub refuses_logins: Arc<AtomicBool>,
    seen: Arc<Mutex<String>>,
}

impl MailServer {
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = Self {
            address,
            refuses_logins: Arc::default(),
            seen: Arc::default(),
        };
        let (refuses, seen) = (Arc::clone(&server.refuses_logins), Arc::clone(&server.seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(session(stream, Arc::clone(&refuses), Arc::clone(&seen)));
            }
        });
        Ok(server)
    }

    /// Everything that it was sent, including decoded logins.
    pub fn seen(&self) -> String {
        self.seen.lock().expect("no panic").clone()
    }
}

async fn session(
    stream: TcpStream,
    refuses: Arc<AtomicBool>,
    seen: Arc<Mutex<String>>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let (mut login, mut in_data) = (String::new(), false);
    write.write_all(b"220 here\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        seen.lock()
            .expect("no panic")
            .push_str(&format!("{line}\n"));
        if in_data && line != "." {
            continue;
        }
        let reply = match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" => "250-here\r\n250 AUTH PLAIN".to_owned(),
            "AUTH" => {
                let sent = line.rsplit(' ').next().unwrap_or_default();
                let decoded = STANDARD.decode(sent).unwrap_or_default();
                login = format!(
                    "{sent} {}",
                    String::from_utf8_lossy(&decoded).replace('\0', " ")
                );
                seen.lock().expect("no panic").push_str(&login);
                let code = if refuses.load(Ordering::SeqCst) {
                    "535 5.7.8"
                } else {
                    "235 2.7.0"
                };
                format!("{code} login {login}")
            }
            "RCPT" if line.contains("refuse@") => format!("550 5.1.1 not for {login}"),
            "DATA" => "354 go on".to_owned(),
            _ => format!("250 2.0.0 {login} is served"),
        };
        in_data = line == "DATA";
        write.write_all(format!("{reply}\r\n").as_bytes()).await?;
    }
    Ok(())
}
