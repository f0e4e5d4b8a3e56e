//! Does little, and goes on without what it is denied.

use patchbay_plugin::{Failure, Job, Jobs, Retry, Value, json, kv};

struct Steady;

impl Jobs for Steady {
    /// Of the jobs that use a grant: whether they had it. A denial is no failure here; everything
    /// else is.
    fn run(job: Job) -> Result<Value, Failure> {
        match job.name.as_str() {
            "count" => {}
            "nap" => {
                let data: Value = job.parse()?;
                std::thread::sleep(std::time::Duration::from_millis(
                    data["ms"].as_u64().unwrap_or_default(),
                ));
                return Ok(Value::Null);
            }
            _ => return Ok(Value::Null),
        }
        match kv::increment("count", 1, None) {
            Ok(_) => Ok(json!("granted")),
            Err(error) if error.code == "denied" => Ok(json!("denied")),
            Err(error) => Err(Failure::new(&error.code, error.message, Retry::Never)),
        }
    }
}
patchbay_plugin::export_jobs!(Steady);
