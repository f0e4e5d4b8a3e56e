//! How many finished jobs stay in Redis: by the job's own option, else the worker's.

use patchbay_model::job::Keep;
use serde::Serialize;
use serde_json::Value;

use crate::job_rules::MAX_KEPT;
use crate::js;

/// The argument of `moveToFinished`. `age` is in seconds, whatever upstream's documentation says:
/// the script multiplies by 1,000.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct KeepJobs {
    /// 0 keeps none, -1 keeps all.
    count: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    age: Option<f64>,
    /// At most this many are removed at once because of their age.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<i64>,
}

impl KeepJobs {
    const ALL: Self = Self {
        count: -1,
        age: None,
        limit: None,
    };
    const NONE: Self = Self {
        count: 0,
        ..Self::ALL
    };
}

impl From<&Keep> for KeepJobs {
    fn from(keep: &Keep) -> Self {
        Self {
            count: keep.count.map_or(-1, |count| count.min(MAX_KEPT) as i64),
            age: keep.age.map(|age| age.as_secs_f64()),
            limit: None,
        }
    }
}

impl KeepJobs {
    /// Reads a job's `removeOnComplete` or `removeOnFail` as BullMQ's worker does: `true`, `false`,
    /// a number, `{count, age, limit}`, or a text, which counts as true where JavaScript says so.
    /// Where an unreadable value would stop BullMQ's script in the middle, it counts as absent
    /// here.
    pub(crate) fn of_job(wish: &Value) -> Option<Self> {
        let of_count = |count: f64| Self {
            count: whole(count),
            ..Self::ALL
        };
        match wish {
            Value::Null => None,
            Value::Number(count) => Some(of_count(count.as_f64()?)),
            Value::Bool(_) | Value::String(_) => Some(if js::is_true(wish) {
                Self::NONE
            } else {
                Self::ALL
            }),
            // An array has no such members.
            Value::Array(_) => Some(Self::ALL),
            Value::Object(fields) => {
                let number = |name: &str| {
                    fields
                        .get(name)
                        .filter(|value| !value.is_null())
                        .and_then(js::number)
                };
                Some(Self {
                    count: number("count").map_or(-1, whole),
                    age: number("age"),
                    limit: number("limit").map(whole),
                })
            }
        }
    }

    /// The member that counts as absent because it cannot be read.
    pub(crate) fn unreadable(wish: &Value) -> Option<&'static str> {
        let is_odd = |name: &str| {
            wish.get(name)
                .is_some_and(|value| !value.is_null() && js::number(value).is_none())
        };
        ["count", "age", "limit"]
            .into_iter()
            .find(|name| wish.is_object() && is_odd(name))
    }
}

/// Redis takes whole numbers only. Rounds up, so that rather one job more is kept; a negative
/// number keeps all.
fn whole(count: f64) -> i64 {
    if count < 0.0 {
        -1
    } else {
        count.ceil().min(MAX_KEPT as f64) as i64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_jobs_own_wish_is_read_in_all_its_forms() {
        let of = |wish| KeepJobs::of_job(&wish);
        let count = |count| {
            Some(KeepJobs {
                count,
                ..KeepJobs::ALL
            })
        };
        let age = |age| {
            Some(KeepJobs {
                age: Some(age),
                ..KeepJobs::ALL
            })
        };
        assert_eq!(of(json!(true)), count(0));
        assert_eq!(of(json!(false)), count(-1));
        assert_eq!(of(json!(5)), count(5));
        assert_eq!(of(json!(2.5)), count(3));
        assert_eq!(of(json!(-2)), count(-1));
        assert_eq!(of(json!(1e20)), count(1 << 53));
        assert_eq!(of(json!({ "age": 60 })), age(60.0));
        assert_eq!(of(json!({ "age": 0.5 })), age(0.5));
        assert_eq!(
            of(json!({ "age": -1 })),
            age(-1.0),
            "removes all that have ended until now"
        );
        assert_eq!(
            of(json!({ "count": "7", "age": "1.5", "limit": 20 })),
            Some(KeepJobs {
                count: 7,
                age: Some(1.5),
                limit: Some(20)
            })
        );
        assert_eq!(
            of(json!("no")),
            count(0),
            "as JavaScript: a text that is not empty is true"
        );
        assert_eq!(of(json!("")), count(-1));
        assert_eq!(of(json!([])), count(-1));
        assert_eq!(of(json!({})), count(-1));
        assert_eq!(of(json!(null)), None);
        let odd = json!({ "count": {}, "age": "soon" });
        assert_eq!(
            (of(odd.clone()), KeepJobs::unreadable(&odd)),
            (count(-1), Some("count"))
        );
    }

    #[test]
    fn the_workers_own_retention_keeps_its_fractions() {
        let keep = Keep {
            age: Some(Duration::from_millis(1_500)),
            count: None,
        };
        assert_eq!(
            KeepJobs::from(&keep),
            KeepJobs {
                age: Some(1.5),
                ..KeepJobs::ALL
            }
        );
    }
}
