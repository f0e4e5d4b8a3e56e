//! How many finished jobs stay in Redis: the job's own wish, else the worker's.

use serde::Serialize;
use serde_json::Value;

use super::Keep;

/// As `moveToFinished` takes it. `age` is in seconds, whatever upstream's documentation says: the script multiplies by 1,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct KeepJobs {
    /// 0 keeps none, -1 all.
    count: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    age: Option<u64>,
}

impl From<&Keep> for KeepJobs {
    fn from(keep: &Keep) -> Self {
        Self {
            count: keep.count.map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX)),
            age: keep.age.map(|age| age.as_secs()),
        }
    }
}

impl KeepJobs {
    /// From a job's `removeOnComplete` or `removeOnFail`: `true`, `false`, a number, or `{count, age}`.
    pub(super) fn of_job(wish: &Value) -> Option<Self> {
        match wish {
            Value::Bool(remove) => Some(Self { count: if *remove { 0 } else { -1 }, age: None }),
            Value::Number(count) => Some(Self { count: count.as_i64()?, age: None }),
            Value::Object(fields) => {
                let count = fields.get("count").and_then(Value::as_i64).unwrap_or(-1);
                Some(Self { count, age: fields.get("age").and_then(Value::as_u64) })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_jobs_own_wish_is_read_in_all_its_forms() {
        let of = |wish| KeepJobs::of_job(&wish);
        assert_eq!(of(json!(true)), Some(KeepJobs { count: 0, age: None }));
        assert_eq!(of(json!(false)), Some(KeepJobs { count: -1, age: None }));
        assert_eq!(of(json!(5)), Some(KeepJobs { count: 5, age: None }));
        assert_eq!(of(json!({ "age": 60 })), Some(KeepJobs { count: -1, age: Some(60) }));
        assert_eq!(of(json!(null)), None);
    }
}
