//! Sends mail: the jobs of `emailQueue`.
//!
//! A job's data becomes a [`Message`](message::Message) (by [`payload`], other producers' shapes
//! through [`mapping`] first), that becomes MIME, and [`deliver`] hands it to the host's account
//! and decides what each SMTP reply means for the job.

mod address;
mod deliver;
mod letter;
mod mapping;
mod message;
mod payload;
mod settings;
mod template;

use patchbay_plugin::{Failure, Job, Jobs, Value};

struct Email;

impl Jobs for Email {
    fn run(job: Job) -> Result<Value, Failure> {
        let settings: settings::Settings = patchbay_plugin::settings::all()?;
        let brand = settings.brand(&job.platform);
        let (name, data) = mapping::apply(&settings, &job.name, &job.data)?;
        let message = payload::message(&name, &data, &settings, &brand)?;
        deliver::deliver(&job, &settings, message)
    }
}

patchbay_plugin::export_jobs!(Email);
