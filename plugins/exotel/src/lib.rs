//! Calls and text messages for CRM leads, through Exotel.
//!
//! [`calls`] and [`messages`] begin them: a row first, then the vendor, then the row again, so that
//! nothing is placed or sent twice. [`event`] reads the vendor's callbacks, [`verify`] judges them,
//! and [`progress`] says what each piece of news does to a row, in whatever order it comes.
//! [`reconcile`] asks for what was never told.

mod access;
mod calls;
mod credentials;
mod event;
mod jobs;
mod messages;
mod pairs;
mod phone;
mod progress;
mod reconcile;
mod recording;
mod settings;
mod store;
mod timeline;
mod vendor;
mod vendor_time;
mod verify;

use patchbay_plugin::webhooks::{self, Accepted, Rejected};
use patchbay_plugin::{Answer, Failure, Job, Jobs, Operations, Request, Value, Webhooks};

struct Exotel;

impl Operations for Exotel {
    fn call(request: Request) -> Result<Answer, Failure> {
        match request.operation.as_str() {
            "config" => credentials::config(),
            "check-credentials" => credentials::check(request.deadline),
            "connect-call" => calls::connect(&request),
            "send-sms" => messages::accept(&request),
            "timeline" => timeline::page(&request),
            "recording" => recording::play(&request),
            _ => Err(request.unknown()),
        }
    }
}

impl Jobs for Exotel {
    fn run(job: Job) -> Result<Value, Failure> {
        match job.name.as_str() {
            "event" => jobs::event(&job),
            "trail" => jobs::trail(&job),
            "send-sms" => messages::send(&job),
            "reconcile" => reconcile::run(&job),
            name => Err(Failure::invalid_input(
                "",
                &format!("no job of this plugin is called {name}"),
            )),
        }
    }
}

impl Webhooks for Exotel {
    fn verify(request: webhooks::Request) -> Result<Accepted, Rejected> {
        verify::verify(&request)
    }
}

patchbay_plugin::export_operations!(Exotel);
patchbay_plugin::export_jobs!(Exotel);
patchbay_plugin::export_webhooks!(Exotel);
