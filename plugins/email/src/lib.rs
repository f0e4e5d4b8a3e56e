//! Sends mail: the jobs of `emailQueue`.
//!
//! A job's data becomes a [`Message`](message::Message) (by [`payload`], other producers' shapes
//! through [`mapping`] first, stored templates from the [`library`]), that becomes MIME, and
//! [`deliver`] hands it to the host's account, and [`replies`] says what each SMTP reply means for
//! the job.
//! [`record`] writes down what became of it, by a job of its own.

mod address;
mod database;
mod deliver;
mod draft;
mod hold;
mod letter;
mod library;
mod mapping;
mod message;
mod payload;
mod record;
mod replies;
mod settings;
mod suppression;
mod template;

use patchbay_plugin::{Answer, Failure, Job, Jobs, Operations, Request, Value};

struct Email;

impl Jobs for Email {
    fn run(job: Job) -> Result<Value, Failure> {
        if job.queue == record::QUEUE {
            return record::run(&job);
        }
        let settings: settings::Settings = patchbay_plugin::settings::all()?;
        let brand = settings.brand(&job.platform);
        let (name, data) = mapping::apply(&settings, &job.name, &job.data)?;
        let made = payload::message(&name, &data, &settings, &brand, &library::stored)?;
        deliver::deliver(&job, &settings, made)
    }
}

impl Operations for Email {
    fn call(request: Request) -> Result<Answer, Failure> {
        match request.operation.as_str() {
            "templates" => library::list(&request),
            "template" => library::show(&request),
            "create-template" => library::create(&request),
            "change-template" => library::change(&request),
            "template-versions" => library::versions(&request),
            "restore-template" => library::restore(&request),
            "remove-template" => library::remove(&request),
            "preview-template" => library::preview(&request),
            "test-template" => library::test(&request),
            "suppressions" => suppression::list(&request),
            "lift-suppression" => suppression::lift(&request),
            "forget-address" => suppression::forget(&request),
            _ => Err(request.unknown()),
        }
    }
}

patchbay_plugin::export_jobs!(Email);
patchbay_plugin::export_operations!(Email);
