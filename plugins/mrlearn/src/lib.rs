//! Mirrors courses of Mr. Learn, which runs on Graphy, and reminds learners.
//!
//! [`configs`] says which course is mirrored under which account, and owns the schedules.
//! [`sync`] reads the vendor's list of learners ([`vendor`], [`learner`]) while it changes
//! ([`paging`]) and writes what differs; a [run](runs) is one such reading. [`reminders`] enqueues
//! messages; [`enrol`] is the way back, to the vendor; [`promote`] makes accounts of learners. [`reconcile`] mends what has got lost.

mod configs;
mod database;
mod enrol;
mod input;
mod job_ids;
mod learner;
mod paging;
mod promote;
mod reconcile;
mod reminders;
mod runs;
mod settings;
mod students;
mod sync;
mod time;
mod vendor;

use patchbay_plugin::{Answer, Failure, Job, Jobs, Operations, Request, Value};

struct MrLearn;

impl Operations for MrLearn {
    fn call(request: Request) -> Result<Answer, Failure> {
        match request.operation.as_str() {
            "list-configs" => configs::list(),
            "create-config" => configs::create(&request),
            "show-config" => configs::show(&request),
            "save-config" => configs::save(&request),
            "delete-config" => configs::delete(&request),
            "trigger-sync" => sync::trigger(&request),
            "list-runs" => runs::list(&request),
            "enrol" => enrol::accept(&request),
            "list-students" => students::list(&request),
            "promote" => promote::promote(&request),
            _ => Err(request.unknown()),
        }
    }
}

impl Jobs for MrLearn {
    fn run(job: Job) -> Result<Value, Failure> {
        match job.name.as_str() {
            "sync" => sync::run(&job),
            "enrol" => enrol::run(&job),
            "new-students" => sync::new_students(&job),
            "remind" => reminders::run(&job),
            "reconcile" => reconcile::run(),
            name => Err(Failure::invalid_input(
                "",
                &format!("no job of this plugin is called {name}"),
            )),
        }
    }
}

patchbay_plugin::export_operations!(MrLearn);
patchbay_plugin::export_jobs!(MrLearn);
