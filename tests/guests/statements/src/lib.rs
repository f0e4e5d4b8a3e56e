//! SQL as the job's data says: `[{"query": "…", "parameters": […]}, {"execute": "…"}]`. Each step's
//! end is in the result; none fails the job.

mod book;
mod sync;

use std::time::Duration;

use patchbay_plugin::{Failure, Job, Jobs, Value, json, kv, queue, sql};

struct Statements;

impl Jobs for Statements {
    fn run(job: Job) -> Result<Value, Failure> {
        let data: Value = job.parse()?;
        match job.name.as_str() {
            "noop" => Ok(Value::Null),
            "each" => Ok(each(&data)),
            "batch" => Ok(batch(&data)),
            "transaction" => Ok(transaction(&data)),
            "book" => book::book(&data),
            "sync" => sync::sync(&data),
            "timed" => sync::timed(&data),
            other => Err(Failure::invalid_input("name", other)),
        }
    }
}

patchbay_plugin::export_jobs!(Statements);

fn parameter(value: &Value) -> sql::Value {
    match value {
        Value::Null => sql::Value::Null,
        Value::Bool(value) => sql::Value::Boolean(*value),
        Value::Number(number) => match number.as_i64() {
            Some(int) => sql::Value::Int(int),
            None => sql::Value::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => sql::Value::Text(text.clone()),
        Value::Array(bytes) => sql::Value::Bytes(
            bytes
                .iter()
                .filter_map(|byte| u8::try_from(byte.as_u64()?).ok())
                .collect(),
        ),
        Value::Object(object) => {
            sql::Value::Json(object.get("json").unwrap_or(&Value::Null).to_string())
        }
    }
}

fn parameters(step: &Value) -> Vec<sql::Value> {
    step["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(parameter)
        .collect()
}

fn value(value: &sql::Value) -> Value {
    match value {
        sql::Value::Null => Value::Null,
        sql::Value::Boolean(value) => json!(value),
        sql::Value::Int(value) => json!(value),
        sql::Value::Float(value) => json!({ "float": value }),
        sql::Value::Text(text) => json!(text),
        sql::Value::Bytes(bytes) => json!(bytes),
        sql::Value::Json(text) => json!({ "json": serde(text) }),
    }
}

fn serde(text: &str) -> Value {
    patchbay_plugin::parse(text).unwrap_or(Value::Null)
}

fn rows(rows: &sql::Rows) -> Value {
    rows.rows
        .iter()
        .map(|row| row.iter().map(value).collect::<Value>())
        .collect()
}

fn error(error: sql::Error) -> Value {
    json!({ "code": error.code, "message": error.message, "constraint": error.constraint, "retryable": error.retryable })
}

fn jobs(data: &Value) -> Vec<queue::NewJob> {
    let job = |job: &Value| {
        let queue = job["queue"].as_str().unwrap_or("sqlQueue");
        let mut new =
            queue::NewJob::new(queue, job["name"].as_str().unwrap_or("noop"), &job["data"]);
        new.id = job["id"].as_str().map(str::to_owned);
        new
    };
    data["jobs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(job)
        .collect()
}

fn each(data: &Value) -> Value {
    let step = |step: &Value| {
        if let Some(text) = step["query"].as_str() {
            sql::query(text, &parameters(step)).map_or_else(error, |answer| rows(&answer))
        } else if let Some(text) = step["types"].as_str() {
            let names = |rows: sql::Rows| {
                rows.columns
                    .iter()
                    .map(|column| json!(column.type_name))
                    .collect()
            };
            sql::query(text, &parameters(step)).map_or_else(error, names)
        } else {
            let text = step["execute"].as_str().unwrap_or_default();
            sql::execute(text, &parameters(step)).map_or_else(error, |affected| json!(affected))
        }
    };
    data.as_array().into_iter().flatten().map(step).collect()
}

fn batch(data: &Value) -> Value {
    let statement = |step: &Value| sql::Statement {
        text: step["text"].as_str().unwrap_or_default().to_owned(),
        parameters: parameters(step),
        expect_rows: step["expect"].as_u64(),
    };
    let statements: Vec<sql::Statement> = data["statements"]
        .as_array()
        .into_iter()
        .flatten()
        .map(statement)
        .collect();
    sql::batch(&statements, &jobs(data)).map_or_else(error, |all| all.iter().map(rows).collect())
}

fn transaction(data: &Value) -> Value {
    let open = match sql::begin() {
        Ok(open) => open,
        Err(refused) => return error(refused),
    };
    let step = |step: &Value| {
        if let Some(text) = step["query"].as_str() {
            open.query(text, &parameters(step))
                .map_or_else(error, |answer| rows(&answer))
        } else if let Some(text) = step["execute"].as_str() {
            open.execute(text, &parameters(step))
                .map_or_else(error, |affected| json!(affected))
        } else if step["jobs"].is_array() {
            open.enqueue(&jobs(step))
                .map_or_else(error, |()| Value::Null)
        } else if let Some(ms) = step["sleep"].as_u64() {
            std::thread::sleep(Duration::from_millis(ms));
            Value::Null
        } else if step["outside"].is_boolean() {
            kv::get("mark").map_or_else(|error| json!(error.code), |_| json!("allowed"))
        } else if step["second"].is_boolean() {
            sql::begin().map_or_else(error, |_| json!("allowed"))
        } else {
            open.commit().map_or_else(error, |()| json!("committed"))
        }
    };
    data.as_array().into_iter().flatten().map(step).collect()
}
