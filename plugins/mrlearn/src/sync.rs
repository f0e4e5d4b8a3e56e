//! Mirrors the course of a config, page by page. Each page and the place of the next one are
//! written in one statement, so that a run that is cut off anywhere goes on where it was; and only
//! what differs is written.

use std::collections::BTreeMap;

use patchbay_plugin::queue::NewJob;
use patchbay_plugin::sql::Value as Cell;
use patchbay_plugin::{Answer, Failure, Job, Request, Retry, Value, json};
use serde::Deserialize;

use crate::configs::{self, Config, SYNC_QUEUE};
use crate::database::{self, document, int, text, text_at};
use crate::input::OnPath;
use crate::job_ids;
use crate::learner;
use crate::paging::Position;
use crate::runs::{self, Run};
use crate::settings::Settings;
use crate::time;
use crate::vendor::{Trouble, Vendor};

/// Learners per page where each is asked about one by one.
const DETAILED_PAGE: u64 = 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    config_id: i64,
    run_id: Option<i64>,
    trigger: Option<String>,
}

/// What of a page is written.
#[derive(Default)]
struct Rows {
    learners: BTreeMap<String, Value>,
    enrolments: BTreeMap<String, Value>,
    /// Learners without the course.
    without: Vec<String>,
}

enum Step {
    Done,
    More,
    /// Another job reads on.
    Overtaken,
}

enum Stop {
    Vendor(Trouble),
    Other(Failure),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Vendor(trouble)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<database::Failed> for Stop {
    fn from(failed: database::Failed) -> Self {
        Self::Other(failed.into())
    }
}

fn skipped(why: &str) -> Value {
    json!({ "skipped": why })
}

pub fn run(job: &Job) -> Result<Value, Failure> {
    let data: Data = job.parse()?;
    let settings = Settings::load()?;
    let Some(config) = Config::find(data.config_id)? else {
        configs::forget_schedules(data.config_id)?;
        return Ok(skipped("no-such-config"));
    };
    if let Err(why) = config.may_ask() {
        runs::give_up(config.id, why)?;
        return Ok(skipped(why));
    }
    let trigger = data.trigger.as_deref().unwrap_or("schedule");
    let taken = runs::take(config.id, data.run_id, trigger, job, &settings)?;
    let Some(mut run) = taken else {
        return Ok(skipped("another-run"));
    };
    let vendor = Vendor::new(&settings, config.id, job.deadline);
    let now = time::now();
    let until = now + job.deadline.saturating_sub(now) / 2;
    loop {
        match step(&config, &vendor, &settings, &mut run) {
            Ok(Step::Done) => {
                config.note(None)?;
                return Ok(json!({
                    "runId": run.id, "pages": run.pages, "seen": run.seen, "written": run.written,
                }));
            }
            Ok(Step::More) if time::now() < until => {}
            Ok(Step::More) => return go_on(&config, &run),
            Ok(Step::Overtaken) => return Ok(skipped("another-run")),
            Err(stop) => return failed(&config, &run, job, stop),
        }
    }
}

/// Leaves the rest to another job, so that no job is long.
fn go_on(config: &Config, run: &Run) -> Result<Value, Failure> {
    let data = json!({ "configId": config.id, "runId": run.id });
    let next = NewJob {
        // The same for a repeat of this job.
        id: Some(format!("mrlearn-run-{}-{}", run.id, run.pages)),
        ..NewJob::new(SYNC_QUEUE, "sync", &data)
    };
    database::batch(
        vec![database::statement(
            "update mrlearn.sync_runs set heartbeat_at = now() where id = $1",
            vec![Cell::Int(run.id)],
        )],
        &[next],
    )?;
    Ok(json!({ "runId": run.id, "pages": run.pages, "goesOn": true }))
}

fn failed(config: &Config, run: &Run, job: &Job, stop: Stop) -> Result<Value, Failure> {
    let failure = match stop {
        Stop::Other(failure) => failure,
        // Also where another job has told it: the host takes a job that completes for one whose
        // credentials were taken.
        Stop::Vendor(trouble) => {
            config.note(Some(&trouble))?;
            trouble.failure()
        }
    };
    let is_over = match failure.retry {
        Retry::Never => true,
        Retry::DeferMs(_) => false,
        _ => job.attempt >= job.max_attempts,
    };
    runs::note_failure(run.id, &failure, is_over)?;
    Err(failure)
}

fn step(
    config: &Config,
    vendor: &Vendor<'_>,
    settings: &Settings,
    run: &mut Run,
) -> Result<Step, Stop> {
    let limit = match config.detailed_reports {
        true => settings.page_size.min(DETAILED_PAGE),
        false => settings.page_size,
    };
    let page = vendor.page(run.position.skip, limit, &config.course_id)?;
    let next = run
        .position
        .after(&page.ids, page.length, page.total, limit);
    let mut rows = rows_of(&page.learners, page.without, &config.course_id, settings);
    if config.detailed_reports {
        add_reports(config, vendor, &mut rows)?;
    }
    let Some(written) = write(config, &rows, Some((&*run, &next)))? else {
        return Ok(Step::Overtaken);
    };
    run.pages += 1;
    run.seen += i64::try_from(rows.enrolments.len()).unwrap_or_default();
    run.written += written;
    run.position = next;
    Ok(if run.position.done {
        Step::Done
    } else {
        Step::More
    })
}

/// The rows of learners with the course, and who is without.
fn rows_of(
    learners: &[Value],
    mut without: Vec<String>,
    course_id: &str,
    settings: &Settings,
) -> Rows {
    let offset = settings.utc_offset.as_str();
    let mut rows = Rows::default();
    for one in learners {
        let (Some(id), Some(course)) = (learner::id(one), learner::course(one, course_id)) else {
            continue;
        };
        let enrolment = learner::enrolment(&id, course_id, course, offset);
        rows.enrolments.insert(id.clone(), enrolment);
        rows.learners
            .extend(learner::row(one, offset).map(|row| (id, row)));
    }
    // Whoever is listed twice may have got the course in between.
    without.retain(|id| !rows.enrolments.contains_key(id));
    rows.without = without;
    rows
}

/// Asks for the time of learners whose row will change, and of those whose time is not known.
fn add_reports(config: &Config, vendor: &Vendor<'_>, rows: &mut Rows) -> Result<(), Stop> {
    let changed = database::query(
        "select x.learner_id from jsonb_to_recordset($1::jsonb) as x (learner_id text, course_id text, progress numeric, \
         total_time_s bigint, last_access_at timestamptz) left join mrlearn.enrolments e using (learner_id, course_id) \
         where e.time_spent_s is null or (e.progress, e.total_time_s, e.last_access_at) is distinct from \
         (x.progress, x.total_time_s, x.last_access_at)",
        &[document(&list(&rows.enrolments))],
    )?;
    for row in &changed {
        let Some(id) = text_at(row, 0) else { continue };
        let spent = match vendor.time_spent(id, &config.course_id) {
            Ok(spent) => spent,
            // One report that the vendor cannot give does not stop the others.
            Err(trouble) if trouble.code == "upstream" => None,
            Err(trouble) => return Err(trouble.into()),
        };
        if let Some(enrolment) = rows.enrolments.get_mut(id) {
            enrolment["time_spent_s"] = json!(spent);
        }
    }
    Ok(())
}

fn list(rows: &BTreeMap<String, Value>) -> Value {
    rows.values().cloned().collect()
}

/// Writes what differs; how many rows that were. With a run, also where it goes on, in the same
/// statement; nothing when another job has gone on with it.
fn write(
    config: &Config,
    rows: &Rows,
    position: Option<(&Run, &Position)>,
) -> Result<Option<i64>, Failure> {
    const ROWS: &str = "\
        l as (insert into mrlearn.learners as l (id, email, name, mobile, active, vendor_created_at, last_login_at) \
          select id, email, name, mobile, active, vendor_created_at, last_login_at from jsonb_to_recordset($1::jsonb) as x \
          (id text, email text, name text, mobile text, active boolean, vendor_created_at timestamptz, last_login_at timestamptz) \
          on conflict (id) do update set email = excluded.email, name = excluded.name, mobile = excluded.mobile, active = excluded.active, \
          vendor_created_at = excluded.vendor_created_at, last_login_at = excluded.last_login_at, updated_at = now() \
          where (l.email, l.name, l.mobile, l.active, l.vendor_created_at, l.last_login_at) is distinct from \
          (excluded.email, excluded.name, excluded.mobile, excluded.active, excluded.vendor_created_at, excluded.last_login_at) returning 1), \
        e as (insert into mrlearn.enrolments as e (learner_id, course_id, title, progress, completed, total_time_s, time_spent_s, score, items, \
          assigned_at, last_access_at) select learner_id, course_id, title, progress, completed, total_time_s, time_spent_s, score, items, \
          assigned_at, last_access_at from jsonb_to_recordset($2::jsonb) as x (learner_id text, course_id text, title text, progress numeric, \
          completed boolean, total_time_s bigint, time_spent_s bigint, score text, items jsonb, assigned_at timestamptz, last_access_at timestamptz) \
          on conflict (learner_id, course_id) do update set title = excluded.title, progress = excluded.progress, completed = excluded.completed, \
          total_time_s = excluded.total_time_s, time_spent_s = coalesce(excluded.time_spent_s, e.time_spent_s), score = excluded.score, \
          items = excluded.items, assigned_at = excluded.assigned_at, last_access_at = excluded.last_access_at, left_at = null, updated_at = now() \
          where (e.title, e.progress, e.completed, e.total_time_s, e.time_spent_s, e.score, e.items, e.assigned_at, e.last_access_at, e.left_at) \
          is distinct from (excluded.title, excluded.progress, excluded.completed, excluded.total_time_s, \
          coalesce(excluded.time_spent_s, e.time_spent_s), excluded.score, excluded.items, excluded.assigned_at, excluded.last_access_at, null) \
          returning 1), \
        g as (update mrlearn.enrolments set left_at = now(), updated_at = now() where course_id = $3 and left_at is null \
          and learner_id in (select jsonb_array_elements_text($4::jsonb)) returning 1), \
        n as (select (select count(*) from l) + (select count(*) from e) + (select count(*) from g) as written)";
    let mut cells = vec![
        document(&list(&rows.learners)),
        document(&list(&rows.enrolments)),
        text(&config.course_id),
        document(&json!(rows.without)),
    ];
    let statement = match position {
        None => format!("with {ROWS} select written from n"),
        Some((run, next)) => {
            let position = serde_json::to_value(next).unwrap_or_default();
            let seen = i64::try_from(rows.enrolments.len()).unwrap_or_default();
            cells.extend([
                document(&position),
                Cell::Int(seen),
                Cell::Boolean(next.done),
                Cell::Int(run.id),
                Cell::Int(run.pages),
            ]);
            format!(
                "with {ROWS} update mrlearn.sync_runs set position = $5::jsonb, pages = pages + 1, seen = seen + $6::bigint, \
                 written = mrlearn.sync_runs.written + n.written, heartbeat_at = now(), \
                 error_code = case when $7::boolean then null else error_code end, error_message = case when $7::boolean then null else error_message end, \
                 state = case when $7::boolean then 'completed' else 'running' end, finished_at = case when $7::boolean then now() end \
                 from n where id = $8::bigint and pages = $9::int and state = 'running' returning n.written"
            )
        }
    };
    let answer = database::query(&statement, &cells)?;
    Ok(answer.first().map(|row| int(row, 0)))
}

/// `POST …/trigger`: a sync now. One that is open goes on instead.
pub fn trigger(request: &Request) -> Result<Answer, Failure> {
    let input: OnPath = request.parse()?;
    let id = input.path.config_id;
    let Some(config) = Config::find(id)? else {
        return Err(Failure::new(
            "not-found",
            format!("there is no sync config {id}"),
            Retry::Never,
        ));
    };
    if let Err(why) = config.may_ask() {
        let told = format!("it cannot be synced: {why}. Save the config first");
        return Err(Failure::new("conflict", told, Retry::Never));
    }
    let data = json!({ "configId": id, "trigger": "manual" });
    let jobs = [NewJob {
        // A client that repeats its request starts one sync.
        id: Some(format!(
            "mrlearn-now-{id}-{}",
            job_ids::part(&request.caller.idempotency_key)
        )),
        ..NewJob::new(SYNC_QUEUE, "sync", &data)
    }];
    database::batch(
        vec![database::statement(
            "select id from mrlearn.sync_configs where id = $1",
            vec![Cell::Int(id)],
        )],
        &jobs,
    )?;
    Ok(Answer::json(&json!({ "configId": id, "queued": true })))
}

/// The job `new-students`: looks at both ends of the list, since the vendor does not say where new
/// learners stand.
pub fn new_students(job: &Job) -> Result<Value, Failure> {
    let settings = Settings::load()?;
    let (mut asked, mut written, mut refused, mut troubled) = (0, 0, Vec::new(), 0);
    let until = job.deadline.saturating_sub(15_000);
    for config in Config::all()? {
        if time::now() >= until {
            break;
        }
        if config.may_ask().is_err() {
            continue;
        }
        asked += 1;
        let vendor = Vendor::new(&settings, config.id, job.deadline);
        match newest(&config, &vendor, &settings) {
            Ok(new) => {
                written += new;
                config.note(None)?;
            }
            Err(Stop::Other(failure)) => return Err(failure),
            Err(Stop::Vendor(trouble)) => {
                config.note(Some(&trouble))?;
                if trouble.is_bad_credentials() {
                    refused.push(config.id);
                }
                troubled += 1;
            }
        }
    }
    if !refused.is_empty() {
        let told = format!(
            "the vendor refuses the credentials of the sync configs {refused:?}. Save them with new ones"
        );
        return Err(Failure::new("bad-credentials", told, Retry::Never));
    }
    Ok(json!({ "configs": asked, "written": written, "troubled": troubled }))
}

fn newest(config: &Config, vendor: &Vendor<'_>, settings: &Settings) -> Result<i64, Stop> {
    let limit = settings.page_size;
    let course = config.course_id.as_str();
    let mut page = vendor.page(0, limit, course)?;
    if let Some(total) = page.total.filter(|total| *total > limit) {
        let last = vendor.page(total.saturating_sub(limit), limit, course)?;
        page.without.extend(last.without);
        page.learners.extend(last.learners);
    }
    let rows = rows_of(&page.learners, page.without, course, settings);
    Ok(write(config, &rows, None)?.unwrap_or_default())
}
