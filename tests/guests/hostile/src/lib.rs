//! Each job name is one kind of misbehaviour (or, for comparison, of good behaviour).

use std::hint::black_box;
use std::time::{Duration, Instant};

use patchbay_plugin::{
    Failure, Job, Jobs, Retry, Value, flows, http, json, kv, log, progress, queue, secrets,
};

mod wasi;

struct Hostile;

#[inline(never)]
#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame[(depth % 64) as usize]
}

#[inline(never)]
fn panic_here() -> ! {
    panic!("on request");
}

fn data(job: &Job) -> Value {
    job.parse().unwrap_or(Value::Null)
}

fn message(job: &Job) -> String {
    data(job)["message"]
        .as_str()
        .unwrap_or("on request")
        .to_owned()
}

impl Jobs for Hostile {
    fn run(job: Job) -> Result<Value, Failure> {
        match job.name.as_str() {
            "noop" => Ok(Value::Null),
            // What its data says, for comparing workers: `ends` names the end of each attempt, the
            // last one those of all that follow.
            "act" => {
                let data: Value = job.parse()?;
                for line in data["log"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                {
                    log::write(log::Level::Info, line, &[]);
                }
                if !data["progress"].is_null() {
                    progress::report(&data["progress"].to_string());
                }
                // Which of those that ended in one millisecond a retention by number trims is a
                // matter of chance.
                std::thread::sleep(Duration::from_millis(2));
                let ends = data["ends"].as_array().cloned().unwrap_or_default();
                let end = ends
                    .get(job.attempt as usize - 1)
                    .or(ends.last())
                    .and_then(Value::as_str);
                match end.unwrap_or("ok") {
                    "fail" => Err(Failure::new(
                        "on-request",
                        format!("attempt {}", job.attempt),
                        Retry::Backoff,
                    )),
                    "never" => Err(Failure::new(
                        "on-request",
                        format!("attempt {}", job.attempt),
                        Retry::Never,
                    )),
                    "children" => {
                        let children = flows::children().map_err(denied)?;
                        let outcome = |child: flows::Child| match child.outcome {
                            Ok(result) => (
                                child.id,
                                patchbay_plugin::parse::<Value>(&result).unwrap_or_default(),
                            ),
                            Err(reason) => (child.id, json!({ "failure": reason })),
                        };
                        Ok(Value::Object(children.into_iter().map(outcome).collect()))
                    }
                    _ => Ok(data["value"].clone()),
                }
            }
            "echo" => Ok(json!({
                "data": data(&job), "attempt": job.attempt, "maxAttempts": job.max_attempts, "key": job.idempotency_key,
                "correlationId": job.correlation_id, "platform": job.platform,
            })),
            "panic" => panic_here(),
            // Two places, and a language that is not known.
            "panic-saying" => panic!("{}", message(&job)),
            "panic-saying-elsewhere" => panic!("{}", message(&job)),
            "abort-saying" => {
                eprintln!("{}", message(&job));
                std::process::abort()
            }
            "loop" => loop {
                black_box(1);
            },
            "memory" => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    // Touched here and there: filling 64 MiB takes longer than the deadline when
                    // eight do it at once.
                    let mut chunk = Vec::with_capacity(1 << 20);
                    chunk.extend_from_slice(&[1; 64 << 10]);
                    hoard.push(black_box(chunk));
                }
            }
            "recurse" => Ok(recurse(0).into()),
            "sleep" => {
                std::thread::sleep(Duration::from_secs(3_600));
                Ok(Value::Null)
            }
            // Inside an outside call: a server that takes the connection and never answers.
            "outside" => {
                let url = data(&job)["url"]
                    .as_str()
                    .unwrap_or("http://127.0.0.1:9/")
                    .to_owned();
                let request = http::Request {
                    method: "GET".into(),
                    url,
                    headers: vec![],
                    body: None,
                    timeout_ms: None,
                };
                match http::send(&request) {
                    Ok(response) => Ok(
                        json!({ "status": response.status, "body": String::from_utf8_lossy(&response.body) }),
                    ),
                    Err(error) => Err(Failure::new("outside", format!("{error:?}"), Retry::Never)),
                }
            }
            // What a good plugin does with an outside host: its trouble is an ordinary failure.
            "upstream" => {
                let url = data(&job)["url"].as_str().unwrap_or_default().to_owned();
                let request = http::Request {
                    method: "GET".into(),
                    url,
                    headers: vec![],
                    body: None,
                    timeout_ms: None,
                };
                match http::send(&request) {
                    Ok(response) if response.status < 500 => Ok(response.status.into()),
                    Ok(response) => Err(Failure::new(
                        "upstream",
                        format!("status {}", response.status),
                        Retry::Backoff,
                    )),
                    Err(error) => Err(Failure::new(
                        "upstream",
                        format!("{error:?}"),
                        Retry::Backoff,
                    )),
                }
            }
            // What a brittle plugin does with it.
            "brittle" => {
                let url = data(&job)["url"].as_str().unwrap_or_default().to_owned();
                let request = http::Request {
                    method: "GET".into(),
                    url,
                    headers: vec![],
                    body: None,
                    timeout_ms: None,
                };
                let status = http::send(&request).expect("an answer").status;
                assert_eq!(status, 200);
                Ok(status.into())
            }
            // A standard client's interface.
            "wasi-http" => {
                let data = data(&job);
                let (authority, path) = (
                    data["authority"].as_str().unwrap_or_default(),
                    data["path"].as_str().unwrap_or("/"),
                );
                let statuses: Result<Vec<u16>, Failure> = (0..data["times"].as_u64().unwrap_or(1))
                    .map(|_| wasi_get(authority, path))
                    .collect();
                Ok(json!(statuses?))
            }
            "log" => {
                let line = "x".repeat(1_000);
                for _ in 0..1_000_000 {
                    log::write(log::Level::Info, &line, &[]);
                }
                Ok(Value::Null)
            }
            "print" => {
                for i in 0..3 {
                    println!("line {i}");
                }
                eprint!("no newline");
                Ok(Value::Null)
            }
            "spin" => {
                let spin = Duration::from_millis(data(&job)["ms"].as_u64().unwrap_or(5));
                let started = Instant::now();
                while started.elapsed() < spin {
                    black_box(1);
                }
                Ok(Value::Null)
            }
            // A fixed amount of computing; the benchmark chooses it so that it takes 5 ms alone.
            "compute" => {
                let mut x = 1u64;
                for i in 0..data(&job)["iterations"].as_u64().unwrap_or(1) {
                    x = black_box(x.rotate_left(5) ^ i);
                }
                Ok(Value::from(x == 0))
            }
            "fail" => {
                let ms = data(&job)["ms"].as_u64().unwrap_or(1_000);
                let retry = match data(&job)["retry"].as_str() {
                    Some("after") => Retry::AfterMs(ms),
                    Some("defer") => Retry::DeferMs(ms),
                    Some("never") => Retry::Never,
                    _ => Retry::Backoff,
                };
                let data = data(&job);
                let times = data["times"].as_u64().unwrap_or(1) as usize;
                let message = data["message"]
                    .as_str()
                    .unwrap_or("failed on request")
                    .repeat(times);
                Err(Failure::new(
                    data["code"].as_str().unwrap_or("on-request"),
                    message,
                    retry,
                ))
            }
            "bad-progress" => {
                for value in ["NaN", "", "{", "null", "1e999"] {
                    progress::report(value);
                }
                Ok(Value::Null)
            }
            "progress" => {
                for percent in 0..=100 {
                    progress::report(&percent.to_string());
                }
                patchbay_plugin::info!("half way");
                Ok(Value::Null)
            }
            "kv" => {
                let first = kv::set_if_absent("mark", b"1", None).map_err(denied)?;
                let count = kv::increment("count", 2, None).map_err(denied)?;
                let value = kv::get("mark").map_err(denied)?;
                Ok(
                    json!({ "first": first, "count": count, "value": value.map(|v| v.len()), "deleted": kv::delete("mark").map_err(denied)? }),
                )
            }
            // Which of these fit, a signature, and which of these signatures still hold.
            "secret" if data(&job)["candidates"].is_array() => {
                let data = data(&job);
                let texts = |name: &str| -> Vec<String> {
                    data[name]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(|v| v.as_str().map(str::to_owned))
                        .collect()
                };
                let mut fits = Vec::new();
                for candidate in texts("candidates") {
                    fits.push(secrets::matches("TOKEN", candidate.as_bytes()).map_err(denied)?);
                }
                let mut verified = Vec::new();
                for mac in texts("macs") {
                    let mac = bytes(&mac);
                    verified.push(
                        secrets::verify_hmac("TOKEN", secrets::Hash::Sha256, b"message", &mac)
                            .map_err(denied)?,
                    );
                }
                let mac = secrets::sign_hmac("TOKEN", secrets::Hash::Sha256, b"message")
                    .map_err(denied)?;
                let mac: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
                Ok(json!({ "fits": fits, "verified": verified, "mac": mac }))
            }
            "secret" => Ok(json!({
                "configured": secrets::is_configured("TOKEN"),
                "other": secrets::matches("OTHER", b"x").map_err(denied).map_err(|failure| failure.code).err(),
                "matches": (0..10).map(|_| secrets::matches("TOKEN", b"s3cret").is_ok()).filter(|ok| *ok).count(),
            })),
            "enqueue" => {
                let queue = data(&job)["queue"]
                    .as_str()
                    .unwrap_or("otherQueue")
                    .to_owned();
                let new = |n: u32| queue::NewJob::new(&queue, &format!("child-{n}"), &json!({}));
                let mut jobs = [new(1), new(2)];
                jobs[1].id = data(&job)["id"].as_str().map(str::to_owned);
                Ok(json!(queue::enqueue(&jobs).map_err(denied)?))
            }
            // A parent with two children in this queue, one of which fails; `parent` instead of the
            // first's own.
            "enqueue-flow" => {
                let node = |name: &str, parent, on_failure: Option<&str>| flows::Node {
                    job: queue::NewJob::new("hostileQueue", name, &json!({ "name": name })),
                    parent,
                    on_failure: on_failure.map(str::to_owned),
                };
                let mut nodes = vec![
                    node("children", None, None),
                    node("echo", Some(0), None),
                    node("fail", Some(0), Some("ignore")),
                ];
                if let Some(parent) = data(&job)["parent"].as_u64() {
                    nodes[1].parent = u32::try_from(parent).ok();
                }
                nodes[2].job.data = json!({ "retry": "never" }).to_string();
                nodes[1].job.id = data(&job)["id"].as_str().map(str::to_owned);
                Ok(json!(flows::enqueue(&nodes).map_err(denied)?))
            }
            "children" => {
                let children = flows::children().map_err(denied)?;
                let child = |child: &flows::Child| match &child.outcome {
                    Ok(result) => json!({ "id": child.id, "queue": child.queue, "result": result }),
                    Err(reason) => {
                        json!({ "id": child.id, "queue": child.queue, "failure": reason })
                    }
                };
                Ok(children.iter().map(child).collect())
            }
            other => match wasi::misbehave(other) {
                Some(ended) => ended,
                None => Err(Failure::invalid_input("name", other)),
            },
        }
    }
}

fn wasi_get(authority: &str, path: &str) -> Result<u16, Failure> {
    use wasip2::http::outgoing_handler::handle;
    use wasip2::http::types::{Fields, OutgoingRequest, Scheme};
    let failed = |what: String| Failure::new("outside", what, Retry::Never);
    let request = OutgoingRequest::new(Fields::new());
    let set = request
        .set_scheme(Some(&Scheme::Http))
        .and_then(|()| request.set_authority(Some(authority)));
    set.and_then(|()| request.set_path_with_query(Some(path)))
        .map_err(|()| failed("not a URL".into()))?;
    let response = handle(request, None).map_err(|error| failed(format!("{error:?}")))?;
    response.subscribe().block();
    match response.get() {
        Some(Ok(Ok(response))) => Ok(response.status()),
        other => Err(failed(format!("{other:?}"))),
    }
}

/// From hexadecimal digits.
fn bytes(hex: &str) -> Vec<u8> {
    let byte = |i: usize| {
        hex.get(i..i + 2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
    };
    (0..hex.len()).step_by(2).filter_map(byte).collect()
}

fn denied(error: patchbay_plugin::bindings::patchbay::plugin::types::CapabilityError) -> Failure {
    Failure::new(&error.code, error.message, Retry::Never)
}

/// Instead of `export_jobs!`, which would spend the deadline on escaping ten million characters.
#[cfg(target_family = "wasm")]
const _: () = {
    use patchbay_plugin::bindings;

    struct Exported;
    impl bindings::exports::patchbay::plugin::jobs::Guest for Exported {
        fn run(job: Job) -> Result<String, Failure> {
            match job.name.as_str() {
                "big-result" => Ok(big_result(10 << 20)),
                _ => Hostile::run(job).map(|value| value.to_string()),
            }
        }
    }
    bindings::export_bindings!(Exported with_types_in bindings);
};

/// One JSON text of this many characters.
#[cfg_attr(not(target_family = "wasm"), allow(dead_code))]
fn big_result(characters: usize) -> String {
    let mut text = String::with_capacity(characters + 2);
    text.push('"');
    text.extend(std::iter::repeat_n("x".repeat(1 << 10), characters >> 10));
    text.push('"');
    text
}
