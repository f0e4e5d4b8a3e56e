//! Calls one capability so many times in a row and says how long that took, by its own clock. The
//! job's name is the capability.
//!
//! Each answer is looked at: refusals are quicker than what is measured.

use std::fmt::Debug;
use std::time::Instant;

use patchbay_plugin::{
    Failure, Job, Jobs, Retry, Value, bindings, flows, http, json, kv, log, queue, secrets, smtp,
    sql,
};

struct Capabilities;

#[derive(serde::Deserialize)]
struct Asked {
    calls: u32,
    /// Of the server that `http.send` asks.
    url: String,
    /// As long as the native side's.
    payload: String,
}

impl Jobs for Capabilities {
    fn run(job: Job) -> Result<Value, Failure> {
        let Asked {
            calls,
            url,
            payload,
        } = job.parse()?;
        let bytes = payload.as_bytes();
        match job.name.as_str() {
            "log.write" => timed(calls, || {
                log::write(
                    log::Level::Info,
                    "sent to the customer",
                    &[("order".into(), "4711".into())],
                );
                Ok(true)
            }),
            "progress.report" => timed(calls, || {
                bindings::patchbay::plugin::progress::report("50");
                Ok(true)
            }),
            "settings.get" => timed(calls, || {
                Ok(bindings::patchbay::plugin::settings::get("greeting").is_some())
            }),
            "secrets.sign-hmac" => timed(calls, || {
                Ok(ok(secrets::sign_hmac("TOKEN", secrets::Hash::Sha256, bytes))?.len() == 32)
            }),
            "secrets.verify-hmac" => {
                let mac = ok(secrets::sign_hmac("TOKEN", secrets::Hash::Sha256, bytes))?;
                timed(calls, || {
                    ok(secrets::verify_hmac(
                        "TOKEN",
                        secrets::Hash::Sha256,
                        bytes,
                        &mac,
                    ))
                })
            }
            "secrets.matches" => timed(calls, || Ok(!ok(secrets::matches("TOKEN", bytes))?)),
            "http.send" => {
                let request = http::Request {
                    method: "GET".into(),
                    url,
                    headers: Vec::new(),
                    body: None,
                    timeout_ms: None,
                };
                timed(calls, || {
                    Ok(ok(http::send(&request))?.body.len() == payload.len())
                })
            }
            "kv.set" => timed(calls, || ok(kv::set("key", bytes, None)).map(|()| true)),
            "kv.get" => {
                ok(kv::set("key", bytes, None))?;
                timed(calls, || {
                    Ok(ok(kv::get("key"))?.is_some_and(|value| value == bytes))
                })
            }
            "queue.enqueue" => timed(calls, || {
                Ok(ok(queue::enqueue(&[sink(&payload)]))?.len() == 1)
            }),
            "flows.enqueue" => timed(calls, || {
                let node = |parent| flows::Node {
                    job: sink(&payload),
                    parent,
                    on_failure: None,
                };
                Ok(ok(flows::enqueue(&[node(None), node(Some(0))]))?.len() == 2)
            }),
            "sql.query" => timed(calls, || {
                Ok(ok(sql::query(
                    "select name from bench.notes where id = $1",
                    &[sql::Value::Int(1)],
                ))?
                .rows
                .len()
                    == 1)
            }),
            "sql.execute" => timed(calls, || {
                let parameters = [sql::Value::Text(payload.clone()), sql::Value::Int(2)];
                Ok(ok(sql::execute(
                    "update bench.notes set name = $1 where id = $2",
                    &parameters,
                ))? == 1)
            }),
            "sql.batch" => timed(calls, || {
                let statement = |id| sql::Statement {
                    text: "update bench.notes set name = $1 where id = $2".into(),
                    parameters: vec![sql::Value::Text(payload.clone()), sql::Value::Int(id)],
                    expect_rows: Some(1),
                };
                Ok(ok(sql::batch(&[statement(3), statement(4)], &[]))?.len() == 2)
            }),
            "smtp.send" => {
                let envelope = smtp::Envelope {
                    sender: "bench@example.org".into(),
                    recipients: vec!["ada@example.org".into()],
                };
                let mail = format!(
                    "From: bench@example.org\r\nTo: ada@example.org\r\nSubject: bench\r\n\r\n{payload}\r\n"
                );
                timed(calls, || {
                    Ok(ok(smtp::send(&envelope, mail.as_bytes()))?
                        .refused
                        .is_empty())
                })
            }
            other => Err(Failure::invalid_input("name", other)),
        }
    }
}

patchbay_plugin::export_jobs!(Capabilities);

/// After one call that does not count: it opens connections.
fn timed(calls: u32, call: impl Fn() -> Result<bool, Failure>) -> Result<Value, Failure> {
    let call = || match call()? {
        true => Ok(()),
        false => Err(Failure::new(
            "unexpected-answer",
            "another answer than expected",
            Retry::Never,
        )),
    };
    call()?;
    let started = Instant::now();
    for _ in 0..calls {
        call()?;
    }
    Ok(json!({ "ns": started.elapsed().as_nanos() as u64 }))
}

fn ok<T, E: Debug>(answer: Result<T, E>) -> Result<T, Failure> {
    answer.map_err(|error| Failure::new("refused", format!("{error:?}"), Retry::Never))
}

fn sink(payload: &str) -> queue::NewJob {
    queue::NewJob::new("benchSink", "nothing", &json!({ "filler": payload }))
}
