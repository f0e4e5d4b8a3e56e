//! A template before it is saved: what the request says, and what it leaves as it was.

use patchbay_plugin::operations::Caller;
use patchbay_plugin::sql::Value as Cell;
use patchbay_plugin::{Failure, Value};
use serde::Deserialize;
use serde_json::Map;

use crate::database::{json_at, optional, text, text_at};
use crate::template::{check, fill};

const MAX_SUBJECT_CHARS: usize = 500;

/// What a request says of a template.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Body {
    pub name: Option<String>,
    pub kind: Option<String>,
    pub subject: Option<String>,
    pub html: Option<String>,
    pub text: Option<String>,
    pub sample: Option<Map<String, Value>>,
    pub variables: Option<Map<String, Value>>,
    pub version: Option<i64>,
    pub to: Option<String>,
}

/// A template before it is saved.
#[derive(Debug)]
pub struct Draft {
    kind: String,
    subject: String,
    html: Option<String>,
    text: Option<String>,
    pub sample: Map<String, Value>,
}

impl Draft {
    /// What the body says; what it leaves out is as in the row.
    pub fn of(body: &Body, before: Option<&[Cell]>) -> Result<Self, Failure> {
        let column = |place: usize| before.and_then(|row| text_at(row, place));
        let sample = before.map(|row| json_at(row, 7));
        let draft = Self {
            kind: body
                .kind
                .clone()
                .or_else(|| column(2))
                .unwrap_or_else(|| "transactional".into()),
            subject: body
                .subject
                .clone()
                .or_else(|| column(4))
                .unwrap_or_default(),
            // An empty text takes a part away.
            html: body
                .html
                .clone()
                .or_else(|| column(5))
                .filter(|part| !part.is_empty()),
            text: body
                .text
                .clone()
                .or_else(|| column(6))
                .filter(|part| !part.is_empty()),
            sample: body
                .sample
                .clone()
                .or_else(|| sample.and_then(|sample| sample.as_object().cloned()))
                .unwrap_or_default(),
        };
        if !["transactional", "marketing"].contains(&draft.kind.as_str()) {
            return Err(Failure::invalid_input(
                "kind",
                "must be transactional or marketing",
            ));
        }
        if draft.subject.trim().is_empty() || draft.subject.chars().count() > MAX_SUBJECT_CHARS {
            return Err(Failure::invalid_input(
                "subject",
                "must have 1 to 500 characters",
            ));
        }
        if draft.html.is_none() && draft.text.is_none() {
            return Err(Failure::invalid_input("html", "html or text is needed"));
        }
        check("subject", &draft.subject)?;
        for (field, part) in [("html", &draft.html), ("text", &draft.text)] {
            part.as_deref().map_or(Ok(()), |part| check(field, part))?;
        }
        Ok(draft)
    }

    /// Subject, HTML and text.
    pub fn rendered(
        &self,
        variables: &Map<String, Value>,
    ) -> Result<(String, Option<String>, Option<String>), Failure> {
        let part = |field: &str, template: &Option<String>| {
            template
                .as_deref()
                .map(|template| fill(field, template, variables))
                .transpose()
        };
        Ok((
            fill("subject", &self.subject, variables)?,
            part("html", &self.html)?,
            part("text", &self.text)?,
        ))
    }

    /// For `$1` to `$6`.
    pub fn values(&self, caller: &Caller) -> Vec<Cell> {
        vec![
            optional(actor(caller)),
            text(self.kind.as_str()),
            text(self.subject.as_str()),
            optional(self.html.as_deref()),
            optional(self.text.as_deref()),
            Cell::Json(Value::Object(self.sample.clone()).to_string()),
        ]
    }
}

/// Who asks: an account by its id, or an operator.
pub fn actor(caller: &Caller) -> Option<&str> {
    caller.user_id.as_deref().or(caller.role.as_deref())
}

#[cfg(test)]
mod tests {
    use patchbay_plugin::json;

    use super::*;

    fn body(value: Value) -> Body {
        serde_json::from_value(value).expect("a body")
    }

    fn draft(value: Value) -> Result<Draft, Failure> {
        Draft::of(&body(value), None)
    }

    #[test]
    fn a_draft_takes_from_the_row_what_the_request_leaves_out() {
        let row = vec![
            text("id"),
            text("welcome"),
            text("marketing"),
            Cell::Int(3),
            text("Hi {{name}}"),
            text("<b>{{name}}</b>"),
            Cell::Null,
            Cell::Json(r#"{"name":"Asha"}"#.into()),
        ];
        let changed =
            Draft::of(&body(json!({ "subject": "Hello {{name}}" })), Some(&row)).expect("a draft");
        assert_eq!(
            (changed.kind.as_str(), changed.subject.as_str()),
            ("marketing", "Hello {{name}}")
        );
        let (subject, html, plain) = changed.rendered(&changed.sample).expect("rendered");
        assert_eq!(
            (subject.as_str(), html.as_deref(), plain),
            ("Hello Asha", Some("<b>Asha</b>"), None)
        );
        let without = Draft::of(&body(json!({ "html": "", "text": "{{name}}" })), Some(&row))
            .expect("a draft");
        assert_eq!(
            (without.html, without.text.as_deref()),
            (None, Some("{{name}}"))
        );
    }

    #[test]
    fn what_cannot_be_sent_is_refused_when_it_is_saved_and_names_the_field() {
        let refused = |value: Value| draft(value).map(drop).expect_err("refused").message;
        assert!(refused(json!({ "html": "x" })).starts_with("subject:"));
        assert!(refused(json!({ "subject": "s" })).starts_with("html:"));
        assert!(refused(json!({ "subject": "s", "html": "{% if %}" })).starts_with("html: line 1"));
        assert!(
            refused(json!({ "subject": "s", "html": "x", "kind": "spam" })).starts_with("kind:")
        );
        assert!(
            refused(json!({ "subject": "s".repeat(501), "html": "x" })).starts_with("subject:")
        );
        let unfit = draft(json!({ "subject": "{{name}}", "text": "x" })).expect("a draft");
        let missing = unfit.rendered(&unfit.sample).expect_err("no sample");
        assert_eq!(
            missing.message,
            "variables.name: is missing; the template needs it"
        );
    }
}
