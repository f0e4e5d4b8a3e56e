//! A placeholder for plugins that do not exist yet: it completes every job, does nothing, and says
//! so in the result.

use patchbay_plugin::{Failure, Job, Jobs, Value, json};

struct Echo;

impl Jobs for Echo {
    fn run(job: Job) -> Result<Value, Failure> {
        let data: Value = job.parse()?;
        patchbay_plugin::warn!("placeholder: {} of {} did nothing", job.name, job.queue);
        Ok(json!({ "placeholder": true, "queue": job.queue, "name": job.name, "data": data }))
    }
}

patchbay_plugin::export_jobs!(Echo);
