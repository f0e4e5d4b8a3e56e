//! A booking: a row and the job that goes with it, in one transaction, in each of the ways that a
//! plugin has. It may run again after its commit, as every job may; the row's key says so, and
//! nothing is enqueued a second time.

use patchbay_plugin::{Failure, Retry, Value, json, queue, sql};

const INSERT: &str = "insert into crm.bookings (key) values ($1)";
/// Affects no row, and a batch that expects one is undone.
const SPOIL: &str = "delete from crm.calls where id < 0";

pub fn book(data: &Value) -> Result<Value, Failure> {
    let key = data["key"]
        .as_i64()
        .ok_or_else(|| Failure::invalid_input("key", "a number"))?;
    let mut job = queue::NewJob::new("otherQueue", "booked", &json!({ "key": key }));
    // A job without an id of its own would be there twice if it were enqueued twice.
    job.id = (data["named"] == true).then(|| format!("booked-{key}"));
    let spoilt = data["spoilt"] == true;
    let done = if data["batch"] == true {
        batch(key, job, spoilt)
    } else {
        transaction(key, job, spoilt)
    };
    match done {
        Ok(()) => Ok(json!(if spoilt { "spoilt" } else { "booked" })),
        Err(error) if error.constraint.as_deref() == Some("bookings_pkey") => Ok(json!("known")),
        Err(error) if spoilt && error.code == "P0002" => Ok(json!("spoilt")),
        Err(error) => Err(Failure::new(
            "sql",
            format!("{}: {}", error.code, error.message),
            Retry::Backoff,
        )),
    }
}

fn batch(key: i64, job: queue::NewJob, spoilt: bool) -> Result<(), sql::Error> {
    let statement = |text: &str, parameters| sql::Statement {
        text: text.to_owned(),
        parameters,
        expect_rows: Some(1),
    };
    let mut statements = vec![statement(INSERT, vec![sql::Value::Int(key)])];
    if spoilt {
        statements.push(statement(SPOIL, vec![]));
    }
    sql::batch(&statements, &[job]).map(drop)
}

/// A spoilt one ends without its commit.
fn transaction(key: i64, job: queue::NewJob, spoilt: bool) -> Result<(), sql::Error> {
    let open = sql::begin()?;
    open.execute(INSERT, &[sql::Value::Int(key)])?;
    open.enqueue(&[job])?;
    if spoilt { Ok(()) } else { open.commit() }
}
