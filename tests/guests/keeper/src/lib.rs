//! Makes schedules, hands over credentials and proposes accounts as the job's data says: a list of
//! steps. The result
//! has each step's answer, or the code of its error.

use patchbay_plugin::accounts::Proposal;
use patchbay_plugin::schedules::Schedule;
use patchbay_plugin::{Failure, Job, Jobs, Value, accounts, credentials, http, json, schedules};

struct Keeper;

fn text(step: &Value, name: &str) -> String {
    step[name].as_str().unwrap_or_default().to_owned()
}

fn optional(step: &Value, name: &str) -> Option<String> {
    step[name].as_str().map(str::to_owned)
}

fn end<T: Into<Value>>(
    answer: Result<T, patchbay_plugin::bindings::patchbay::plugin::types::CapabilityError>,
) -> Value {
    match answer {
        Ok(value) => value.into(),
        Err(error) => json!({ "code": error.code, "message": error.message }),
    }
}

fn step(step: &Value) -> Value {
    match text(step, "do").as_str() {
        "put-schedule" => end(schedules::put(&Schedule {
            id: text(step, "id"),
            queue: optional(step, "queue").unwrap_or_else(|| "keeperQueue".into()),
            name: optional(step, "name").unwrap_or_else(|| "tick".into()),
            data: optional(step, "data").unwrap_or_else(|| "{}".into()),
            every_ms: step["everyMs"].as_u64(),
            cron: optional(step, "cron"),
            tz: optional(step, "tz"),
            missed: optional(step, "missed").unwrap_or_else(|| "skip".into()),
            description: text(step, "description"),
        })),
        "remove-schedule" => end(schedules::remove(&text(step, "id"))),
        "list-schedules" => {
            let page = schedules::page(optional(step, "after").as_deref(), 100);
            end(page.map(|states| {
                let shown = states.iter().map(|state| {
                    json!({
                        "id": state.schedule.id, "everyMs": state.schedule.every_ms, "paused": state.paused, "ticks": state.next_at.is_some(),
                    })
                });
                shown.collect::<Value>()
            }))
        }
        "put-credential" => {
            let fields: Vec<(String, String)> = step["fields"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect();
            end(credentials::put(&text(step, "name"), &fields))
        }
        "remove-credential" => end(credentials::remove(&text(step, "name"))),
        "list-credentials" => {
            let page = credentials::page(optional(step, "after").as_deref(), 100);
            end(page.map(|infos| {
                let shown = infos
                    .iter()
                    .map(|info| json!({ "name": info.name, "version": info.version }));
                shown.collect::<Value>()
            }))
        }
        "propose-account" => {
            let proposed = accounts::propose(&Proposal {
                email: text(step, "email"),
                name: optional(step, "name"),
                phone: optional(step, "phone"),
            });
            end(proposed.map(|account| json!({ "id": account.id, "isNew": account.is_new })))
        }
        "send" => {
            let request = http::Request {
                method: "GET".into(),
                url: text(step, "url"),
                headers: Vec::new(),
                body: None,
                timeout_ms: None,
            };
            let answer = match optional(step, "credential") {
                Some(name) => http::send_with(&request, &name),
                None => http::send(&request),
            };
            match answer {
                Ok(response) => response.status.into(),
                Err(http::Error::Denied(reason)) => json!({ "code": "denied", "message": reason }),
                Err(other) => json!({ "code": format!("{other:?}") }),
            }
        }
        other => json!({ "code": "unknown", "message": other }),
    }
}

impl Jobs for Keeper {
    fn run(job: Job) -> Result<Value, Failure> {
        if job.name == "tick" {
            return Ok(Value::Null);
        }
        let data: Value = job.parse()?;
        Ok(data.as_array().into_iter().flatten().map(step).collect())
    }
}
patchbay_plugin::export_jobs!(Keeper);
