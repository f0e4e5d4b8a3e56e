//! A learner as the vendor gives it, whose field names have spaces and mixed case, made into rows.

use std::fmt;

use patchbay_plugin::{Value, json};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::time;
use crate::vendor::whole;

/// What says whether a learner is wanted, read without the rest.
#[derive(Debug, Default)]
pub struct Brief {
    pub id: Option<String>,
    /// The ids of the courses.
    courses: Vec<String>,
}

impl Brief {
    pub fn has_course(&self, course_id: &str) -> bool {
        self.courses.iter().any(|course| course == course_id)
    }
}

impl<'de> Deserialize<'de> for Brief {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Brief;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a learner")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Brief, A::Error> {
                let (mut brief, mut other_id) = (Brief::default(), None);
                while let Some(name) = fields.next_key::<Name>()? {
                    match name {
                        Name::Id => brief.id = text(&fields.next_value()?),
                        Name::OtherId => other_id = text(&fields.next_value()?),
                        Name::Courses => brief.courses = ids(fields.next_value()?),
                        Name::Other => drop(fields.next_value::<IgnoredAny>()?),
                    }
                }
                brief.id = brief.id.or(other_id);
                Ok(brief)
            }
        }
        from.deserialize_map(Fields)
    }
}

/// Ids of what is in a list; none of what is no list.
fn ids(list: &RawValue) -> Vec<String> {
    let all: Vec<&RawValue> = serde_json::from_str(list.get()).unwrap_or_default();
    let one = |raw: &&RawValue| serde_json::from_str::<Brief>(raw.get()).ok()?.id;
    all.iter().filter_map(one).collect()
}

/// A field's name, whatever its case.
enum Name {
    Id,
    OtherId,
    Courses,
    Other,
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Known;
        impl Visitor<'_> for Known {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                let is = |known: &str| name.eq_ignore_ascii_case(known);
                Ok(match () {
                    () if is("id") => Name::Id,
                    () if is("_id") => Name::OtherId,
                    () if is("courses") => Name::Courses,
                    () => Name::Other,
                })
            }
        }
        from.deserialize_identifier(Known)
    }
}

/// A field by its name, whatever its case.
fn field<'a>(of: &'a Value, name: &str) -> &'a Value {
    const NOTHING: &Value = &Value::Null;
    if let Some(value) = of.get(name) {
        return value;
    }
    let fields = of.as_object();
    let same = fields.and_then(|fields| {
        fields
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
    });
    same.map_or(NOTHING, |(_, value)| value)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
    // Postgres cannot store it.
    .map(|text| text.replace('\0', ""))
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "active" => Some(true),
            "false" | "no" | "inactive" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Percent, from `45`, `45.5`, `"45"` or `"45%"`.
fn percent(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().trim_end_matches('%').trim().parse().ok(),
        _ => None,
    }?;
    number.is_finite().then(|| number.clamp(0.0, 100.0))
}

pub fn id(learner: &Value) -> Option<String> {
    text(field(learner, "id")).or_else(|| text(field(learner, "_id")))
}

/// The row of `mrlearn.learners`.
pub fn row(learner: &Value, offset: &str) -> Option<Value> {
    Some(json!({
        "id": id(learner)?,
        "email": text(field(learner, "email")),
        "name": text(field(learner, "name")),
        "mobile": text(field(learner, "mobile")),
        "active": truth(field(learner, "active")),
        "vendor_created_at": time::read(field(learner, "created date"), offset),
        "last_login_at": time::read(field(learner, "last login"), offset),
    }))
}

/// The learner's entry for a course.
pub fn course<'a>(learner: &'a Value, course_id: &str) -> Option<&'a Value> {
    let courses = field(learner, "courses").as_array()?;
    courses
        .iter()
        .find(|course| text(field(course, "id")).as_deref() == Some(course_id))
}

/// The row of `mrlearn.enrolments`.
pub fn enrolment(learner_id: &str, course_id: &str, course: &Value, offset: &str) -> Value {
    let progress = percent(field(course, "progress"));
    let items = field(course, "course items");
    json!({
        "learner_id": learner_id,
        "course_id": course_id,
        "title": text(field(course, "title")),
        "progress": progress,
        "completed": truth(field(course, "completed")).unwrap_or(progress == Some(100.0)),
        "total_time_s": whole(field(course, "totalTime")),
        "score": text(field(course, "assessments score")),
        "items": items.is_array().then_some(items),
        "assigned_at": time::read(field(course, "assigned date"), offset),
        "last_access_at": time::read(field(course, "last access date"), offset),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_spaces_and_mixed_case_and_values_of_any_form_are_read() {
        let learner = json!({
            "id": "l1", "email": " a@example.com ", "name": "A", "mobile": "+911", "active": "true",
            "created date": "2026-03-01 10:00:00", "Last Login": "",
            "courses": [{ "id": 7 }, { "id": "c1", "Title": "Rust", "Assigned Date": "2026-03-01", "progress": "45%",
                "totalTime": "120", "completed": false, "assessments score": 8, "course items": [{ "title": "one" }] }],
        });
        let made = row(&learner, "+05:30").expect("a learner");
        assert_eq!(
            (&made["email"], &made["active"], &made["last_login_at"]),
            (&json!("a@example.com"), &json!(true), &json!(null))
        );
        assert_eq!(made["vendor_created_at"], "2026-03-01T04:30:00.000Z");
        assert!(course(&learner, "c2").is_none() && course(&learner, "7").is_some());
        let one = enrolment("l1", "c1", course(&learner, "c1").expect("there"), "+05:30");
        assert_eq!(
            (&one["title"], &one["progress"], &one["total_time_s"]),
            (&json!("Rust"), &json!(45.0), &json!(120))
        );
        assert_eq!(
            (&one["score"], &one["completed"]),
            (&json!("8"), &json!(false))
        );
        assert_eq!(row(&json!({ "email": "no id" }), "+05:30"), None);
        let done = enrolment("l1", "c1", &json!({ "progress": 100 }), "+05:30");
        assert_eq!(
            (&done["completed"], &done["items"]),
            (&json!(true), &json!(null))
        );
    }
}
