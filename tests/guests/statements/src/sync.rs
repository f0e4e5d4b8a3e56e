//! What a plugin does with its tables all day; with the setting `leaks`, how a careless revision of
//! it does that.

use std::time::{Duration, Instant};

use patchbay_plugin::{Failure, Retry, Value, json, settings, sql};

fn failed(error: sql::Error) -> Failure {
    Failure::new(
        "sql",
        format!("{}: {}", error.code, error.message),
        Retry::Never,
    )
}

pub fn sync(data: &Value) -> Result<Value, Failure> {
    let settings: Value = settings::all()?;
    let open = sql::begin().map_err(failed)?;
    let touch = "update crm.leads set name = name where id = 2";
    open.execute(touch, &[]).map_err(failed)?;
    if settings["leaks"] != true {
        return open.commit().map(|()| json!("synced")).map_err(failed);
    }
    // Postgres's own limit is lifted first: it is the host that must end these.
    let lock = "select pg_advisory_lock(7) from set_config('statement_timeout', '0', true)";
    open.query(lock, &[]).map_err(failed)?;
    if data["how"] == "sleeps in Postgres" {
        return open
            .query("select pg_sleep(60)", &[])
            .map(|_| Value::Null)
            .map_err(failed);
    }
    // Beyond the transaction's time, with the row and the lock still held.
    std::thread::sleep(Duration::from_secs(8));
    Err(Failure::new(
        "idle",
        "held a transaction and did nothing",
        Retry::Never,
    ))
}

/// Microseconds that each of `times` statements took, as the plugin sees it.
pub fn timed(data: &Value) -> Result<Value, Failure> {
    let times = data["times"].as_u64().unwrap_or(1);
    let one = |n: u64| {
        let begun = Instant::now();
        if n.is_multiple_of(2) {
            sql::query(
                "select id, name from crm.leads where id = $1",
                &[sql::Value::Int(1)],
            )
            .map(drop)
            .map_err(failed)?;
        } else {
            sql::execute(
                "update crm.leads set name = name where id = $1",
                &[sql::Value::Int(1)],
            )
            .map(drop)
            .map_err(failed)?;
        }
        Ok(json!(
            u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
        ))
    };
    (0..times).map(one).collect()
}
