//! Runs: one reading of a course from the first page to the last, however many jobs it takes. At
//! most one run of a config is open.

use patchbay_plugin::sql::Value as Cell;
use patchbay_plugin::{Answer, Failure, Job, Request, Value, json, parse};
use serde::Deserialize;

use crate::database::{self, Row, int, text, value};
use crate::input::Path;
use crate::paging::Position;
use crate::settings::Settings;

#[derive(Debug)]
pub struct Run {
    pub id: i64,
    pub position: Position,
    /// Pages read: also which page this is, so that two jobs of one run do not both read on.
    pub pages: i64,
    pub seen: i64,
    pub written: i64,
}

const COLUMNS: &str = "id, position, pages, seen, written";

fn run(row: &Row) -> Result<Run, Failure> {
    Ok(Run {
        id: int(row, 0),
        position: parse(&value(row.get(1)).to_string())?,
        pages: int(row, 2),
        seen: int(row, 3),
        written: int(row, 4),
    })
}

fn first(rows: &[Row]) -> Result<Option<Run>, Failure> {
    rows.first().map(run).transpose()
}

/// The run that a job works on: the one that it names or has begun, a new one, or one that nobody
/// has gone on with for long. Nothing when another job works on the config.
pub fn take(
    config_id: i64,
    named: Option<i64>,
    trigger: &str,
    job: &Job,
    settings: &Settings,
) -> Result<Option<Run>, Failure> {
    if let Some(id) = named {
        let statement =
            format!("select {COLUMNS} from mrlearn.sync_runs where id = $1 and state = 'running'");
        return first(&database::query(&statement, &[Cell::Int(id)])?);
    }
    let key = text(&job.idempotency_key);
    let own = format!(
        "select {COLUMNS} from mrlearn.sync_runs where config_id = $1 and state = 'running' and job_key = $2"
    );
    let own = database::query(&own, &[Cell::Int(config_id), key.clone()])?;
    if let Some(own) = first(&own)? {
        return Ok(Some(own));
    }
    let position = serde_json::to_value(Position::default()).unwrap_or_default();
    let new = format!(
        "insert into mrlearn.sync_runs (config_id, trigger, job_key, position) values ($1, $2, $3, $4) \
         on conflict (config_id) where state = 'running' do nothing returning {COLUMNS}"
    );
    let cells = [
        Cell::Int(config_id),
        text(trigger),
        key.clone(),
        database::document(&position),
    ];
    if let Some(new) = first(&database::query(&new, &cells)?)? {
        return Ok(Some(new));
    }
    let stale = format!(
        "update mrlearn.sync_runs set job_key = $2, heartbeat_at = now() where config_id = $1 and state = 'running' \
         and heartbeat_at < now() - make_interval(mins => $3) returning {COLUMNS}"
    );
    let minutes = Cell::Int(settings.stale_run_minutes.into());
    first(&database::query(
        &stale,
        &[Cell::Int(config_id), key, minutes],
    )?)
}

/// Writes down why the run stands still; `is_over` when nothing tries again.
pub fn note_failure(id: i64, failure: &Failure, is_over: bool) -> Result<(), Failure> {
    let ended = match is_over {
        true => ", state = 'failed', finished_at = now()",
        false => "",
    };
    let statement = format!(
        "update mrlearn.sync_runs set error_code = $2, error_message = $3, heartbeat_at = now(){ended} where id = $1 and state = 'running'"
    );
    let cells = [Cell::Int(id), text(&failure.code), text(&failure.message)];
    database::execute(&statement, &cells)?;
    Ok(())
}

/// Ends the open run of a config that may not be read any more.
pub fn give_up(config_id: i64, why: &str) -> Result<(), Failure> {
    database::execute(
        "update mrlearn.sync_runs set state = 'failed', error_code = $2, finished_at = now() where config_id = $1 and state = 'running'",
        &[Cell::Int(config_id), text(why)],
    )?;
    Ok(())
}

pub fn forget_old(days: u32) -> Result<u64, Failure> {
    Ok(database::execute(
        "delete from mrlearn.sync_runs where state <> 'running' and finished_at < now() - make_interval(days => $1)",
        &[Cell::Int(days.into())],
    )?)
}

/// A row as clients see it.
pub fn view(row: &Value) -> Value {
    if row.is_null() {
        return Value::Null;
    }
    let error = match row["error_code"].is_null() {
        true => Value::Null,
        false => json!({ "code": row["error_code"], "message": row["error_message"] }),
    };
    json!({
        "id": row["id"], "trigger": row["trigger"], "state": row["state"], "pages": row["pages"], "seen": row["seen"],
        "written": row["written"], "error": error, "startedAt": row["started_at"], "finishedAt": row["finished_at"],
    })
}

#[derive(Deserialize)]
struct Input {
    path: Path,
    #[serde(default)]
    query: Query,
}

#[derive(Deserialize, Default)]
struct Query {
    limit: Option<i64>,
    before: Option<i64>,
}

pub fn list(request: &Request) -> Result<Answer, Failure> {
    let input: Input = request.parse()?;
    let rows = database::query(
        "select to_jsonb(r) - 'position' - 'job_key' from mrlearn.sync_runs r where config_id = $1 and ($2::bigint is null or id < $2) \
         order by id desc limit $3",
        &[
            Cell::Int(input.path.config_id),
            database::number(input.query.before),
            Cell::Int(input.query.limit.unwrap_or(50).clamp(1, 200)),
        ],
    )?;
    let runs: Vec<Value> = rows.iter().map(|row| view(&value(row.first()))).collect();
    Ok(Answer::json(&json!(runs)))
}
