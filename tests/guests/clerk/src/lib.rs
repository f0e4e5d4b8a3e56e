//! Appends to audit trails as the job's data says: `{"trail": "…", "key": "…", "entry": …}`, or
//! `"raw"` for an entry that is text.

use patchbay_plugin::{Failure, Job, Jobs, Retry, Value, audit, json};

struct Clerk;

fn text(step: &Value, name: &str) -> String {
    step[name].as_str().unwrap_or_default().to_owned()
}

fn append(step: &Value) -> Result<(), Failure> {
    let entry = step["raw"]
        .as_str()
        .map_or_else(|| step["entry"].to_string(), str::to_owned);
    audit::append(&text(step, "trail"), &text(step, "key"), &entry).map_err(|error| {
        let retry = if error.retryable {
            Retry::Backoff
        } else {
            Retry::Never
        };
        Failure::new(&error.code, error.message, retry)
    })
}

impl Jobs for Clerk {
    fn run(job: Job) -> Result<Value, Failure> {
        let data: Value = job.parse()?;
        match job.name.as_str() {
            "append" => append(&data).map(|()| Value::Null),
            // Each step's end; none fails the job.
            "each" => {
                let end = |step: &Value| match append(step) {
                    Ok(()) => json!("written"),
                    Err(failure) => json!({ "code": failure.code, "message": failure.message }),
                };
                Ok(data.as_array().into_iter().flatten().map(end).collect())
            }
            // As a plugin that is killed after it has written.
            "append-then-fail-twice" => {
                append(&data)?;
                if job.attempt < 3 {
                    return Err(Failure::new(
                        "on-request",
                        "failed on request",
                        Retry::Backoff,
                    ));
                }
                Ok(Value::Null)
            }
            other => Err(Failure::invalid_input("name", other)),
        }
    }
}
patchbay_plugin::export_jobs!(Clerk);
