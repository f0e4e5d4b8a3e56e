//! Makes a learner at the vendor and assigns a course. Both are success when they were done before:
//! what the vendor has is read back, and only that counts.

use patchbay_plugin::queue::NewJob;
use patchbay_plugin::sql::Value as Cell;
use patchbay_plugin::{Answer, Failure, Job, Request, Retry, Value, json};
use serde::Deserialize;

use crate::configs::{Config, SYNC_QUEUE};
use crate::database;
use crate::input::Path;
use crate::job_ids;
use crate::learner;
use crate::settings::Settings;
use crate::vendor::{Trouble, Vendor};

#[derive(Deserialize)]
struct Input {
    path: Path,
    body: Person,
}

#[derive(Deserialize)]
struct Person {
    email: String,
    name: String,
    mobile: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    config_id: i64,
    #[serde(flatten)]
    person: Person,
}

/// `POST …/enrolments`: a job, since the vendor may be slow.
pub fn accept(request: &Request) -> Result<Answer, Failure> {
    let Input { path, body } = request.parse()?;
    let Some(config) = Config::find(path.config_id)? else {
        return Err(Failure::new(
            "not-found",
            format!("there is no sync config {}", path.config_id),
            Retry::Never,
        ));
    };
    if let Err(why) = config.may_ask() {
        let told = format!("nobody can be enrolled: {why}. Save the config first");
        return Err(Failure::new("conflict", told, Retry::Never));
    }
    let data = json!({
        "configId": config.id, "email": body.email, "name": body.name, "mobile": body.mobile,
    });
    let data = without_nulls(data);
    let job = NewJob {
        id: Some(format!(
            "mrlearn-enrol-{}",
            job_ids::part(&request.caller.idempotency_key)
        )),
        ..NewJob::new(SYNC_QUEUE, "enrol", &data)
    };
    database::batch(
        vec![database::statement(
            "select id from mrlearn.sync_configs where id = $1",
            vec![Cell::Int(config.id)],
        )],
        &[job],
    )?;
    Ok(Answer::json(
        &json!({ "configId": config.id, "queued": true }),
    ))
}

fn without_nulls(mut data: Value) -> Value {
    if let Some(fields) = data.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    data
}

pub fn run(job: &Job) -> Result<Value, Failure> {
    let data: Data = job.parse()?;
    let settings = Settings::load()?;
    let Some(config) = Config::find(data.config_id)? else {
        return Ok(json!({ "skipped": "no-such-config" }));
    };
    if let Err(why) = config.may_ask() {
        return Err(Failure::new(why, "the vendor is not asked", Retry::Never));
    }
    let vendor = Vendor::new(&settings, config.id, job.deadline);
    enrol(&config, &vendor, &data.person).map_err(|trouble| {
        let noted = config.note(Some(&trouble));
        noted.err().unwrap_or_else(|| trouble.failure())
    })
}

fn enrol(config: &Config, vendor: &Vendor<'_>, person: &Person) -> Result<Value, Trouble> {
    let is_new = vendor.create(&person.email, &person.name, person.mobile.as_deref())?;
    let found = vendor.find(&person.email)?;
    let Some(found) = found else {
        return Err(unconfirmed("the vendor does not list the learner"));
    };
    let was_assigned = learner::course(&found, &config.course_id).is_some();
    if !was_assigned {
        vendor.assign(&person.email, &config.course_id)?;
        let again = vendor.find(&person.email)?;
        let has = again.is_some_and(|again| learner::course(&again, &config.course_id).is_some());
        if !has {
            return Err(unconfirmed(
                "the vendor does not list the course with the learner",
            ));
        }
    }
    Ok(
        json!({ "learnerId": learner::id(&found), "learnerIsNew": is_new, "courseIsNew": !was_assigned }),
    )
}

/// The vendor took it, and does not show it yet.
fn unconfirmed(what: &str) -> Trouble {
    Trouble {
        code: "upstream",
        message: format!("{what} although it answers with success"),
        again: crate::vendor::Again::Backoff,
    }
}
