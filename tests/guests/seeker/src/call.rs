//! One call of each kind, and all that it gave back, as text.

use patchbay_plugin::{Value, flows, http, json, kv, queue, secrets, smtp, sql};

pub(crate) fn make(name: &str, data: &Value) -> String {
    let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
    let hash = secrets::Hash::Sha256;
    let new_job = |name: &str| queue::NewJob::new("otherQueue", name, &json!({}));
    match name {
        "http" => {
            let (method, url) = (text("method"), text("url"));
            match http::send(&http::Request {
                method,
                url,
                headers: vec![],
                body: None,
                timeout_ms: None,
            }) {
                Ok(answer) => readable(answer.status, &answer.headers, &answer.body),
                Err(error) => format!("{error:?}"),
            }
        }
        "wasi-http" => wasi_get(&text("url")).unwrap_or_else(|error| error),
        "secrets.is-configured" => secrets::is_configured(&text("secret")).to_string(),
        "secrets.matches" => format!("{:?}", secrets::matches(&text("secret"), b"a guess")),
        "secrets.sign-hmac" => format!(
            "{:?}",
            secrets::sign_hmac(&text("secret"), hash, b"message")
        ),
        "secrets.verify-hmac" => format!(
            "{:?}",
            secrets::verify_hmac(&text("secret"), hash, b"message", b"no mac")
        ),
        "smtp" => {
            let envelope = smtp::Envelope {
                sender: text("sender"),
                recipients: vec![text("recipient")],
            };
            format!("{:?}", smtp::send(&envelope, text("mime").as_bytes()))
        }
        "sql.query" => format!("{:?}", sql::query(&text("text"), &[])),
        "sql.execute" => format!("{:?}", sql::execute(&text("text"), &[])),
        "sql.batch" => {
            let statement = sql::Statement {
                text: text("text"),
                parameters: vec![],
                expect_rows: None,
            };
            format!("{:?}", sql::batch(&[statement], &[new_job("after-commit")]))
        }
        "sql.transaction" => match sql::begin() {
            Ok(open) => format!("{:?} {:?}", open.query(&text("text"), &[]), open.commit()),
            Err(error) => format!("{error:?}"),
        },
        "kv" => {
            let set = kv::set("key", text("value").as_bytes(), None);
            format!(
                "{set:?} {:?}",
                kv::get("key").map(|value| value.map(|v| String::from_utf8_lossy(&v).into_owned()))
            )
        }
        "queue" => format!("{:?}", queue::enqueue(&[new_job("from-a-guest")])),
        "flows" => {
            let node = flows::Node {
                job: new_job("of-a-flow"),
                parent: None,
                on_failure: None,
            };
            format!("{:?} {:?}", flows::enqueue(&[node]), flows::children())
        }
        "settings" => patchbay_plugin::bindings::patchbay::plugin::settings::all(),
        other => format!("no such call: {other}"),
    }
}

fn readable(status: u16, headers: &[(String, Vec<u8>)], body: &[u8]) -> String {
    let headers = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value)));
    format!(
        "{status}\n{}\n{}",
        headers.collect::<String>(),
        String::from_utf8_lossy(body)
    )
}

fn wasi_get(url: &str) -> Result<String, String> {
    use wasip2::http::outgoing_handler::handle;
    use wasip2::http::types::{Fields, OutgoingRequest, Scheme};
    let (scheme, rest) = url.split_once("://").ok_or("no scheme")?;
    let (authority, path) = rest.split_at(rest.find('/').ok_or("no path")?);
    let scheme = if scheme == "https" {
        Scheme::Https
    } else {
        Scheme::Http
    };
    let request = OutgoingRequest::new(Fields::new());
    let set = request
        .set_scheme(Some(&scheme))
        .and_then(|()| request.set_authority(Some(authority)));
    set.and_then(|()| request.set_path_with_query(Some(path)))
        .map_err(|()| "not a URL")?;
    let answer = handle(request, None).map_err(|error| format!("{error:?}"))?;
    answer.subscribe().block();
    let response = match answer.get() {
        Some(Ok(Ok(response))) => response,
        other => return Err(format!("{other:?}")),
    };
    let (status, headers) = (response.status(), response.headers().entries());
    let body = response.consume().map_err(|()| "no body")?;
    let stream = body.stream().map_err(|()| "no stream")?;
    let mut content = Vec::new();
    while let Ok(piece) = stream.blocking_read(1 << 16) {
        content.extend(piece);
    }
    Ok(readable(status, &headers, &content))
}
