//! Each operation is one way to answer, or not to.

use std::hint::black_box;
use std::time::Duration;

use patchbay_plugin::operations::{Answer, Body, Operations, Request};
use patchbay_plugin::{Failure, Retry, Value, http, json};

struct Answers;

impl Operations for Answers {
    fn call(request: Request) -> Result<Answer, Failure> {
        let input: Value = request.parse()?;
        // An operator gives the values themselves, a request to a route in its body or query.
        let asked = ["body", "query"].into_iter().find_map(|part| {
            let given = input[part].as_object()?;
            (!given.is_empty()).then(|| Value::Object(given.clone()))
        });
        let asked = asked.unwrap_or_else(|| input.clone());
        let text = |name: &str| asked[name].as_str().unwrap_or_default().to_owned();
        match request.operation.as_str() {
            "echo" => {
                let caller = &request.caller;
                patchbay_plugin::info!("echoing");
                Ok(Answer::json(&json!({
                    "input": input, "role": caller.role, "userId": caller.user_id, "platform": caller.platform,
                    "correlationId": caller.correlation_id, "idempotencyKey": caller.idempotency_key,
                })))
            }
            "caller" => {
                let caller = &request.caller;
                let headers = request
                    .headers
                    .iter()
                    .map(|(name, value)| json!([name, String::from_utf8_lossy(value)]));
                Ok(Answer::json(&json!({
                    "userId": caller.user_id, "email": caller.email, "role": caller.role, "platform": caller.platform,
                    "ip": caller.ip, "correlationId": caller.correlation_id, "idempotencyKey": caller.idempotency_key,
                    "headers": headers.collect::<Vec<Value>>(),
                })))
            }
            stamp if stamp.starts_with("stamp.") => Ok(Answer {
                headers: vec![("x-stamp".into(), stamp.into())],
                ..Answer::json(&json!({ "stamp": stamp }))
            }),
            "header" => Ok(Answer {
                headers: vec![(text("name"), text("value").into_bytes())],
                ..Answer::json(&json!({ "ok": true }))
            }),
            "status" => Ok(Answer::json(&json!({ "ok": true }))
                .with_status(asked["status"].as_u64().unwrap_or_default() as u16)),
            "typed" => Ok(Answer::bytes(&text("type"), vec![0, 159, 146, 150])),
            // Without being parsed and written anew.
            "raw" => Ok(answer(Body::Json(request.input))),
            "created" => Ok(Answer::json(&json!({ "id": 7 })).with_status(201)),
            "bytes" if asked["length"].is_u64() => {
                let length = asked["length"].as_u64().unwrap_or_default() as usize;
                Ok(Answer::bytes("application/octet-stream", vec![1; length]))
            }
            "bytes" => Ok(Answer::bytes("image/png", vec![0, 159, 146, 150])),
            "empty" => Ok(Answer::empty()),
            "relay" => Ok(Answer::relay(&text("url"))),
            "fail" => {
                let retry = asked["afterMs"]
                    .as_u64()
                    .map_or(Retry::Never, Retry::AfterMs);
                let details = Some(json!({ "field": "to" }).to_string());
                Err(Failure {
                    details,
                    ..Failure::new(&text("code"), "failed on request", retry)
                })
            }
            "upstream" => {
                let request = http::Request {
                    method: "GET".into(),
                    url: text("url"),
                    headers: vec![],
                    body: None,
                    timeout_ms: None,
                };
                match http::send(&request) {
                    Ok(response) => Ok(Answer::json(&response.status.into())),
                    Err(error) => Err(Failure::new(
                        "upstream",
                        format!("{error:?}"),
                        Retry::Backoff,
                    )),
                }
            }
            "panic" => panic!("on request"),
            // Each call has another one.
            "unique" => {
                std::thread::sleep(Duration::from_millis(
                    asked["ms"].as_u64().unwrap_or_default(),
                ));
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let call = now.unwrap_or_default().as_nanos().to_string();
                Ok(Answer::json(
                    &json!({ "call": call, "key": request.caller.idempotency_key }),
                ))
            }
            "large" => {
                let length = asked["length"].as_u64().unwrap_or_default() as usize;
                Ok(Answer::json(&json!({ "text": "x".repeat(length) })))
            }
            "sleep" => {
                std::thread::sleep(Duration::from_secs(3_600));
                Ok(Answer::empty())
            }
            "memory" => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(black_box(Vec::with_capacity(8 << 20)));
                }
            }
            "large-json" => Ok(answer(Body::Json(format!("\"{}\"", "x".repeat(1 << 20))))),
            "not-json" => Ok(answer(Body::Json("{".into()))),
            "odd-status" => Ok(Answer::empty().with_status(101)),
            "odd-type" => Ok(Answer::bytes("text/plain\r\nset-cookie: a=b", vec![1])),
            _ => Err(request.unknown()),
        }
    }
}
patchbay_plugin::export_operations!(Answers);

fn answer(body: Body) -> Answer {
    Answer {
        status: None,
        headers: vec![],
        body,
    }
}
