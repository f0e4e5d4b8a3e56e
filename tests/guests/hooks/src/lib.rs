//! Each body says what verify makes of it.

#[allow(clippy::all)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit/v0.1",
        inline: "
            package tests:hooks;
            world hooks {
                include patchbay:plugin/job-plugin@0.1.1;
                export patchbay:plugin/webhooks@0.1.1;
            }
        ",
        world: "tests:hooks/hooks",
        generate_all,
    });
}

use bindings::exports::patchbay::plugin::{jobs, webhooks};
use bindings::patchbay::plugin::types::Failure;
use bindings::patchbay::plugin::{kv, log, secrets};
use serde_json::{Value, json};
use webhooks::{Accepted, EventJob, Rejected, Reply, Request};

struct Hooks;

/// A sender's clock may differ by so much.
const TOLERANCE_MS: u64 = 300_000;

impl jobs::Guest for Hooks {
    fn run(job: jobs::Job) -> Result<String, Failure> {
        Ok(job.data)
    }
}

fn rejected(status: u16, code: &str, message: &str) -> Rejected {
    Rejected {
        status,
        code: code.into(),
        message: message.into(),
    }
}

impl webhooks::Guest for Hooks {
    fn verify(request: Request) -> Result<Accepted, Rejected> {
        if ["GET", "HEAD"].contains(&request.method.as_str()) {
            return Ok(Accepted {
                event_id: None,
                kind: "handshake".into(),
                jobs: Vec::new(),
                reply: Some(Reply {
                    status: 200,
                    content_type: "text/plain".into(),
                    body: request.query.into_bytes(),
                }),
            });
        }
        let body: Value = serde_json::from_slice(&request.body)
            .map_err(|error| rejected(422, "malformed", &error.to_string()))?;
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        log::write(log::Level::Info, "verifying", &[]);
        match text("do").as_str() {
            "reject" => {
                let status = body["status"].as_u64().unwrap_or(401) as u16;
                return Err(rejected(status, &text("code"), "on request"));
            }
            "trap" => panic!("on request"),
            "spin" => loop {
                std::hint::black_box(0);
            },
            // Only secrets, settings and the log answer here.
            "reach" => {
                let refused = kv::get("hooks:a").expect_err("denied");
                return Err(rejected(400, &refused.code, &refused.message));
            }
            "secret" => {
                let fits = secrets::matches("SIGNING", text("value").as_bytes());
                if !matches!(fits, Ok(true)) {
                    return Err(rejected(401, "bad-signature", "SIGNING does not match"));
                }
            }
            "many" => {
                let job = EventJob {
                    name: "many".into(),
                    data: "{}".into(),
                };
                return Ok(Accepted {
                    event_id: None,
                    kind: String::new(),
                    jobs: vec![job; 101],
                    reply: None,
                });
            }
            _ => {}
        }
        if let Some(sent) = body["sentAt"].as_u64()
            && request.received_at.abs_diff(sent) > TOLERANCE_MS
        {
            return Err(rejected(401, "stale", "sent at another time"));
        }
        let given = body["jobs"].as_u64().unwrap_or(1);
        let job = |place: u64| EventJob {
            name: "event".into(),
            data: json!({
                "place": place, "id": body["id"], "phone": body["phone"], "query": request.query,
                "headers": request.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(),
                "receivedAt": request.received_at, "ip": request.ip, "bytes": request.body.len(),
            })
            .to_string(),
        };
        Ok(Accepted {
            event_id: body["id"].as_str().map(str::to_owned),
            kind: text("kind"),
            jobs: (0..given).map(job).collect(),
            reply: None,
        })
    }
}

bindings::export!(Hooks with_types_in bindings);
