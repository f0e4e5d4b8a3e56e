//! Sync configs: which course is mirrored, how often, under which account, and when its learners
//! are reminded. Saving one (re)registers its schedules and checks new credentials at once.

use patchbay_plugin::schedules::{self, Schedule};
use patchbay_plugin::sql::Value as Cell;
use patchbay_plugin::{Answer, Failure, Request, Retry, Value, credentials, json};
use serde::Deserialize;

use crate::database::{self, int, is_true, number, optional, text, text_at, value};
use crate::input::{OnPath, Path};
use crate::settings::Settings;
use crate::vendor::{Trouble, Vendor, credential};

pub const SYNC_QUEUE: &str = "mrlearnSyncQueue";
pub const REMINDER_QUEUE: &str = "mrlearnReminderQueue";
const HOUR_MS: u64 = 3_600_000;

const COLUMNS: &str = "c.id, c.course_id, c.course_title, c.interval_hours, c.detailed_reports, c.enabled, c.reminder_cron, c.reminder_tz, \
     c.reminder_channel, c.reminder_below, c.has_credentials, c.state, c.state_reason, c.state_since, c.updated_at";

#[derive(Debug, Clone)]
pub struct Config {
    pub id: i64,
    pub course_id: String,
    pub course_title: Option<String>,
    pub interval_hours: i64,
    pub detailed_reports: bool,
    pub enabled: bool,
    pub reminder: Option<Reminder>,
    pub has_credentials: bool,
    pub state: String,
    state_reason: Option<String>,
    state_since: Value,
    updated_at: Value,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reminder {
    pub cron: String,
    pub tz: Option<String>,
    /// `whatsapp` or `email`.
    pub channel: String,
    pub below_percent: Option<i64>,
}

/// What a client sends.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    course_id: String,
    course_title: Option<String>,
    interval_hours: i64,
    #[serde(default)]
    detailed_reports: bool,
    enabled: Option<bool>,
    reminder: Option<Reminder>,
    credentials: Option<Credentials>,
}

/// Held for one call only.
#[derive(Deserialize)]
struct Credentials {
    mid: String,
    key: String,
}

#[derive(Deserialize)]
struct Created {
    body: Wanted,
}

#[derive(Deserialize)]
struct Saved {
    path: Path,
    body: Wanted,
}

fn config(row: &[Cell]) -> Config {
    let owned = |place| text_at(row, place).map(str::to_owned);
    let reminder = owned(6).zip(owned(8)).map(|(cron, channel)| Reminder {
        cron,
        tz: owned(7),
        channel,
        below_percent: Some(int(row, 9)).filter(|below| *below > 0),
    });
    Config {
        id: int(row, 0),
        course_id: owned(1).unwrap_or_default(),
        course_title: owned(2),
        interval_hours: int(row, 3),
        detailed_reports: is_true(row, 4),
        enabled: is_true(row, 5),
        reminder,
        has_credentials: is_true(row, 10),
        state: owned(11).unwrap_or_default(),
        state_reason: owned(12),
        state_since: value(row.get(13)),
        updated_at: value(row.get(14)),
    }
}

impl Config {
    pub fn find(id: i64) -> Result<Option<Self>, Failure> {
        let statement = format!("select {COLUMNS} from mrlearn.sync_configs c where c.id = $1");
        let rows = database::query(&statement, &[Cell::Int(id)])?;
        Ok(rows.first().map(|row| config(row)))
    }

    pub fn all() -> Result<Vec<Self>, Failure> {
        let statement = format!("select {COLUMNS} from mrlearn.sync_configs c order by c.id");
        let rows = database::query(&statement, &[])?;
        Ok(rows.iter().map(|row| config(row)).collect())
    }

    fn known(id: i64) -> Result<Self, Failure> {
        Self::find(id)?.ok_or_else(|| {
            Failure::new(
                "not-found",
                format!("there is no sync config {id}"),
                Retry::Never,
            )
        })
    }

    /// Whether the vendor may be asked: after a refusal nothing is, until other credentials are
    /// saved.
    pub fn may_ask(&self) -> Result<(), &'static str> {
        if !self.enabled {
            Err("disabled")
        } else if !self.has_credentials {
            Err("no-credentials")
        } else if self.state == "bad-credentials" {
            Err("bad-credentials")
        } else {
            Ok(())
        }
    }

    pub fn sync_schedule(&self) -> String {
        sync_schedule(self.id)
    }

    fn view(&self) -> Value {
        json!({
            "id": self.id, "courseId": self.course_id, "courseTitle": self.course_title, "intervalHours": self.interval_hours,
            "detailedReports": self.detailed_reports, "enabled": self.enabled,
            "reminder": self.reminder.as_ref().map(|reminder| json!({
                "cron": reminder.cron, "tz": reminder.tz, "channel": reminder.channel, "belowPercent": reminder.below_percent,
            })),
            "credentials": { "set": self.has_credentials },
            "state": self.state, "stateReason": self.state_reason, "stateSince": self.state_since, "updatedAt": self.updated_at,
            "schedule": self.sync_schedule(),
        })
    }

    /// Makes its schedules what the config wants; returns whether anything had to change.
    pub fn register(&self) -> Result<bool, Failure> {
        let every_ms = u64::try_from(self.interval_hours).unwrap_or(1) * HOUR_MS;
        let course = self.course_title.as_deref().unwrap_or(&self.course_id);
        let sync = Schedule {
            id: self.sync_schedule(),
            queue: SYNC_QUEUE.into(),
            name: "sync".into(),
            data: json!({ "configId": self.id, "trigger": "schedule" }).to_string(),
            every_ms: Some(every_ms),
            cron: None,
            tz: None,
            missed: "once".into(),
            description: line(&format!("Mirrors {course}")),
        };
        let mut has_changed = if self.enabled {
            schedules::put(&sync).map_err(|error| refused("intervalHours", error))?
        } else {
            removed(&sync.id)?
        };
        let id = reminder_schedule(self.id);
        has_changed |= match self.reminder.as_ref().filter(|_| self.enabled) {
            None => removed(&id)?,
            Some(reminder) => schedules::put(&Schedule {
                id,
                queue: REMINDER_QUEUE.into(),
                name: "remind".into(),
                data: json!({ "configId": self.id }).to_string(),
                every_ms: None,
                cron: Some(reminder.cron.clone()),
                tz: Some(zone(reminder)?),
                missed: "skip".into(),
                description: line(&format!("Reminds learners of {course}")),
            })
            .map_err(|error| refused("reminder.cron", error))?,
        };
        Ok(has_changed)
    }

    /// Notes what the vendor has said of the credentials; returns whether that is news.
    pub fn note(&self, trouble: Option<&Trouble>) -> Result<bool, Failure> {
        let (state, reason) = match trouble {
            None => ("ok", None),
            Some(trouble) if trouble.is_bad_credentials() => {
                ("bad-credentials", Some(trouble.message.as_str()))
            }
            // It says nothing about the credentials.
            Some(_) => return Ok(false),
        };
        let changed = database::execute(
            "update mrlearn.sync_configs set state = $2, state_reason = $3, state_since = now() where id = $1 and state <> $2",
            &[Cell::Int(self.id), text(state), optional(reason)],
        )?;
        Ok(changed > 0)
    }
}

fn zone(reminder: &Reminder) -> Result<String, Failure> {
    match &reminder.tz {
        Some(tz) => Ok(tz.clone()),
        None => Ok(Settings::load()?.reminder_zone),
    }
}

/// One line that a schedule's description can hold.
fn line(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(60)
        .collect::<String>()
}

pub fn sync_schedule(id: i64) -> String {
    format!("mrlearn-sync-{id}")
}

fn reminder_schedule(id: i64) -> String {
    format!("mrlearn-remind-{id}")
}

fn removed(id: &str) -> Result<bool, Failure> {
    schedules::remove(id).map_err(|error| refused("", error))
}

/// What the host says about a schedule or a credential, as a failure of this field.
fn refused(
    field: &str,
    error: patchbay_plugin::bindings::patchbay::plugin::types::CapabilityError,
) -> Failure {
    match error.code.as_str() {
        "invalid" => Failure::invalid_input(field, &error.message),
        "denied" => Failure::new("not-granted", error.message, Retry::Never),
        code if error.retryable => Failure::new(code, error.message, Retry::Backoff),
        code => Failure::new(code, error.message, Retry::Never),
    }
}

/// Removes the schedules of a config that is gone.
pub fn forget_schedules(id: i64) -> Result<(), Failure> {
    removed(&sync_schedule(id))?;
    removed(&reminder_schedule(id))?;
    Ok(())
}

pub fn list() -> Result<Answer, Failure> {
    let last = "select to_jsonb(r) - 'position' - 'job_key' from mrlearn.sync_runs r where r.config_id = c.id order by r.id desc limit 1";
    let statement =
        format!("select {COLUMNS}, ({last}) from mrlearn.sync_configs c order by c.id limit 1000");
    let rows = database::query(&statement, &[])?;
    let listed = rows.iter().map(|row| {
        let mut view = config(row).view();
        view["lastRun"] = crate::runs::view(&value(row.get(15)));
        view
    });
    Ok(Answer::json(&listed.collect::<Value>()))
}

pub fn show(request: &Request) -> Result<Answer, Failure> {
    let input: OnPath = request.parse()?;
    Ok(Answer::json(&Config::known(input.path.config_id)?.view()))
}

pub fn create(request: &Request) -> Result<Answer, Failure> {
    let Created { body } = request.parse()?;
    let columns = "course_id, course_title, interval_hours, detailed_reports, enabled, reminder_cron, reminder_tz, reminder_channel, reminder_below";
    let statement = format!(
        "insert into mrlearn.sync_configs as c ({columns}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning {COLUMNS}"
    );
    let rows = database::query(&statement, &body.cells()).map_err(|failed| {
        match failed.is_duplicate() {
            true => Failure::new(
                "conflict",
                "there is a sync config of this course already",
                Retry::Never,
            ),
            false => failed.into(),
        }
    })?;
    let made = rows
        .first()
        .map(|row| config(row))
        .unwrap_or_else(|| config(&[]));
    let finished = finish(&made, body.credentials.as_ref(), request.deadline);
    if let Err(failure) = &finished
        && failure.retry_is_never()
    {
        // Nothing is left of a config that cannot be.
        forget(made.id)?;
    }
    finished.map(|view| Answer::json(&view))
}

pub fn save(request: &Request) -> Result<Answer, Failure> {
    let Saved { path, body } = request.parse()?;
    let before = Config::known(path.config_id)?;
    // The schedules first: what they refuse is refused before anything has changed.
    let wanted = body.over(&before);
    let registered = wanted.register();
    if let Err(failure) = &registered
        && failure.retry_is_never()
    {
        before.register()?;
        registered?;
    }
    let statement = format!(
        "update mrlearn.sync_configs as c set course_id = $1, course_title = $2, interval_hours = $3, detailed_reports = $4, enabled = $5, \
         reminder_cron = $6, reminder_tz = $7, reminder_channel = $8, reminder_below = $9, updated_at = now() where id = $10 returning {COLUMNS}"
    );
    let mut cells = body.cells();
    cells.push(Cell::Int(path.config_id));
    let rows = database::query(&statement, &cells).map_err(|failed| match failed.is_duplicate() {
        true => Failure::new(
            "conflict",
            "there is another sync config of this course",
            Retry::Never,
        ),
        false => failed.into(),
    });
    let saved = match rows {
        Ok(rows) => rows.first().map(|row| config(row)),
        Err(failure) => {
            before.register()?;
            return Err(failure);
        }
    };
    let saved = saved.unwrap_or(before);
    finish(&saved, body.credentials.as_ref(), request.deadline).map(|view| Answer::json(&view))
}

/// Registers the schedules, keeps new credentials, and checks them.
fn finish(config: &Config, new: Option<&Credentials>, deadline: u64) -> Result<Value, Failure> {
    let registered = config.register();
    if let Err(failure) = &registered
        && failure.retry_is_never()
    {
        return Err(failure.clone());
    }
    if let Some(new) = new {
        let fields = [
            ("mid".to_owned(), new.mid.clone()),
            ("key".to_owned(), new.key.clone()),
        ];
        credentials::put(&credential(config.id), &fields)
            .map_err(|error| refused("credentials", error))?;
        database::execute(
            "update mrlearn.sync_configs set has_credentials = true, state = 'unchecked', state_reason = null, state_since = now() where id = $1",
            &[Cell::Int(config.id)],
        )?;
        check(config.id, deadline)?;
    }
    let mut view = Config::known(config.id)?.view();
    // The reconcile job puts it there as soon as the host can.
    view["scheduled"] = registered.is_ok().into();
    Ok(view)
}

/// Asks the vendor once, and writes down what it says.
fn check(id: i64, deadline: u64) -> Result<(), Failure> {
    let settings = Settings::load()?;
    let config = Config::known(id)?;
    match Vendor::new(&settings, id, deadline).check() {
        Ok(()) => config.note(None).map(drop),
        Err(trouble) if trouble.is_bad_credentials() => config.note(Some(&trouble)).map(drop),
        Err(trouble) => {
            database::execute(
                "update mrlearn.sync_configs set state_reason = $2 where id = $1 and state = 'unchecked'",
                &[Cell::Int(id), text(trouble.message)],
            )?;
            Ok(())
        }
    }
}

pub fn delete(request: &Request) -> Result<Answer, Failure> {
    let input: OnPath = request.parse()?;
    Config::known(input.path.config_id)?;
    forget(input.path.config_id)?;
    Ok(Answer::empty())
}

fn forget(id: i64) -> Result<(), Failure> {
    forget_schedules(id)?;
    credentials::remove(&credential(id)).map_err(|error| refused("credentials", error))?;
    database::execute(
        "delete from mrlearn.sync_configs where id = $1",
        &[Cell::Int(id)],
    )?;
    Ok(())
}

impl Wanted {
    fn cells(&self) -> Vec<Cell> {
        let reminder = self.reminder.as_ref();
        vec![
            text(&self.course_id),
            optional(self.course_title.as_deref()),
            Cell::Int(self.interval_hours),
            Cell::Boolean(self.detailed_reports),
            Cell::Boolean(self.enabled.unwrap_or(true)),
            optional(reminder.map(|reminder| reminder.cron.as_str())),
            optional(reminder.and_then(|reminder| reminder.tz.as_deref())),
            optional(reminder.map(|reminder| reminder.channel.as_str())),
            number(reminder.and_then(|reminder| reminder.below_percent)),
        ]
    }

    /// The config as it would be.
    fn over(&self, before: &Config) -> Config {
        Config {
            course_id: self.course_id.clone(),
            course_title: self.course_title.clone(),
            interval_hours: self.interval_hours,
            detailed_reports: self.detailed_reports,
            enabled: self.enabled.unwrap_or(true),
            reminder: self.reminder.clone(),
            ..before.clone()
        }
    }
}

trait Final {
    fn retry_is_never(&self) -> bool;
}

impl Final for Failure {
    fn retry_is_never(&self) -> bool {
        matches!(self.retry, Retry::Never)
    }
}
