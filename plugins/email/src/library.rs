//! Templates in the table `email_templates`: who made which version, and what a mail of it looks like.
//!
//! A change is a new version; versions stay. Whatever is stored has been rendered with its sample
//! data, so a template that is broken is refused when it is saved, not when a mail is due.

use patchbay_plugin::queue::{self, NewJob};
use patchbay_plugin::sql::Value as Cell;
use patchbay_plugin::{Answer, Failure, Request, Retry, Value, json};
use serde::Deserialize;

use crate::database::{self, int, json_at, number, optional, query, text, text_at};
use crate::draft::{Body, Draft, actor};

const QUEUE: &str = "emailQueue";
const DEFAULT_PAGE: i64 = 100;
/// Of a row, in the order of [`shown`].
const COLUMNS: &str = "id, name, kind, version, subject, html, text, sample, created_by, updated_by, created_at, updated_at, removed_at";
/// Writes the version of the row that `t` has just written.
const VERSION: &str = "v as (insert into public.email_template_versions (template_id, version, kind, subject, html, text, sample, changed_by) \
                       select id, version, kind, subject, html, text, sample, updated_by from t)";

/// A template as a job uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub id: String,
    pub version: i64,
    pub is_marketing: bool,
    pub subject: String,
    pub html: Option<String>,
    pub text: Option<String>,
}

/// The one of this name, in this version or the newest.
pub fn stored(name: &str, version: Option<i64>) -> Result<Stored, Failure> {
    let rows = match version {
        None => query(
            "select id::text, version, kind, subject, html, text from public.email_templates where name = $1 and removed_at is null",
            &[text(name)],
        ),
        Some(version) => query(
            "select t.id::text, v.version, v.kind, v.subject, v.html, v.text from public.email_templates t \
             join public.email_template_versions v on v.template_id = t.id \
             where t.name = $1 and t.removed_at is null and v.version = $2",
            &[text(name), Cell::Int(version)],
        ),
    };
    let rows = rows.map_err(database::failed)?;
    let row = rows.first().ok_or_else(|| {
        Failure::invalid_input(
            "template",
            "there is no such template or version, neither in the setting `templates` nor in email_templates",
        )
    })?;
    Ok(Stored {
        id: text_at(row, 0).unwrap_or_default(),
        version: int(row, 1),
        is_marketing: text_at(row, 2).as_deref() == Some("marketing"),
        subject: text_at(row, 3).unwrap_or_default(),
        html: text_at(row, 4),
        text: text_at(row, 5),
    })
}

/// What a request may have. Operators send whatever they like, so nothing is taken for granted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Input {
    path: Path,
    query: Query,
    body: Body,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Path {
    id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Query {
    limit: Option<i64>,
    cursor: Option<String>,
    removed: bool,
    version: Option<i64>,
}

pub fn list(request: &Request) -> Result<Answer, Failure> {
    let Input { query: wanted, .. } = request.parse()?;
    let limit = wanted.limit.unwrap_or(DEFAULT_PAGE).clamp(1, 500);
    let rows = query(
        &format!(
            "select {COLUMNS} from public.email_templates where name > $1 and ($2 or removed_at is null) order by name limit $3"
        ),
        &[
            text(wanted.cursor.unwrap_or_default()),
            Cell::Boolean(wanted.removed),
            Cell::Int(limit),
        ],
    )
    .map_err(database::failed)?;
    let is_full = i64::try_from(rows.len()).ok() == Some(limit);
    let next = rows
        .last()
        .filter(|_| is_full)
        .and_then(|row| text_at(row, 1));
    // Without their texts: an answer has at most 1 MiB.
    let all: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut one = shown(row);
            if let Some(fields) = one.as_object_mut() {
                fields.retain(|name, _| !["html", "text", "sample"].contains(&name.as_str()));
            }
            one
        })
        .collect();
    Ok(Answer::json(
        &json!({ "templates": all, "nextCursor": next }),
    ))
}

/// One, as it is or as it was in an older version.
pub fn show(request: &Request) -> Result<Answer, Failure> {
    let Input {
        path,
        query: wanted,
        ..
    } = request.parse()?;
    let mut one = shown(&row(&path.id)?);
    let Some(version) = wanted.version else {
        return Ok(Answer::json(&one));
    };
    let rows = query(
        "select version, kind, subject, html, text, sample, changed_by, changed_at from public.email_template_versions \
         where template_id = $1 and version = $2",
        &[text(path.id), Cell::Int(version)],
    )
    .map_err(database::failed)?;
    let row = rows.first().ok_or_else(no_version)?;
    for (name, value) in [
        ("version", json!(int(row, 0))),
        ("kind", json!(text_at(row, 1))),
        ("subject", json!(text_at(row, 2))),
        ("html", json!(text_at(row, 3))),
        ("text", json!(text_at(row, 4))),
        ("sample", json_at(row, 5)),
        ("updatedBy", json!(text_at(row, 6))),
        ("updatedAt", json!(text_at(row, 7))),
    ] {
        one[name] = value;
    }
    Ok(Answer::json(&one))
}

pub fn create(request: &Request) -> Result<Answer, Failure> {
    let Input { body, .. } = request.parse()?;
    let name = body.name.as_deref().unwrap_or_default().trim();
    if name.is_empty() || name.chars().count() > 200 || name.chars().any(char::is_control) {
        return Err(Failure::invalid_input(
            "name",
            "must have 1 to 200 characters",
        ));
    }
    let draft = Draft::of(&body, None)?;
    draft.rendered(&draft.sample)?;
    let statement = format!(
        "with t as (insert into public.email_templates (name, kind, subject, html, text, sample, created_by, updated_by) \
         values ($7, $2, $3, $4, $5, $6, $1, $1) returning *), {VERSION} select {COLUMNS} from t"
    );
    let mut values = draft.values(&request.caller);
    values.push(text(name));
    let rows = query(&statement, &values).map_err(|error| match error.code.as_str() {
        database::UNIQUE_VIOLATION => {
            conflict("there is a template of this name, or one that was removed: restore it")
        }
        _ => database::failed(error),
    })?;
    Ok(Answer::json(&shown(rows.first().ok_or_else(gone)?)))
}

/// A new version. What the request leaves out stays as it is.
pub fn change(request: &Request) -> Result<Answer, Failure> {
    let Input { path, body, .. } = request.parse()?;
    let before = row(&path.id)?;
    if text_at(&before, 12).is_some() {
        return Err(conflict("the template was removed: restore it first"));
    }
    if body
        .version
        .is_some_and(|version| version != int(&before, 3))
    {
        return Err(conflict(
            "somebody else has changed the template meanwhile: read it again",
        ));
    }
    let draft = Draft::of(&body, Some(&before))?;
    draft.rendered(&draft.sample)?;
    let statement = format!(
        "with t as (update public.email_templates set kind = $2, subject = $3, html = $4, text = $5, sample = $6, updated_by = $1, \
         updated_at = now(), version = version + 1 where id = $7 and version = $8 and removed_at is null returning *), {VERSION} \
         select {COLUMNS} from t"
    );
    let mut values = draft.values(&request.caller);
    values.extend([text(path.id), number(Some(int(&before, 3)))]);
    let rows = query(&statement, &values).map_err(database::failed)?;
    let changed = rows.first().ok_or_else(|| {
        conflict("somebody else has changed the template meanwhile: read it again")
    })?;
    Ok(Answer::json(&shown(changed)))
}

pub fn versions(request: &Request) -> Result<Answer, Failure> {
    let Input {
        path,
        query: wanted,
        ..
    } = request.parse()?;
    row(&path.id)?;
    let limit = wanted.limit.unwrap_or(DEFAULT_PAGE).clamp(1, 500);
    let before: Option<i64> = wanted
        .cursor
        .as_deref()
        .and_then(|cursor| cursor.parse().ok());
    let rows = query(
        "select version, kind, subject, changed_by, changed_at from public.email_template_versions \
         where template_id = $1 and ($2::int is null or version < $2) order by version desc limit $3",
        &[text(path.id), number(before), Cell::Int(limit)],
    )
    .map_err(database::failed)?;
    let is_full = i64::try_from(rows.len()).ok() == Some(limit);
    let next = rows
        .last()
        .filter(|_| is_full)
        .map(|row| int(row, 0).to_string());
    let all: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "version": int(row, 0), "kind": text_at(row, 1), "subject": text_at(row, 2), "changedBy": text_at(row, 3),
                "changedAt": text_at(row, 4),
            })
        })
        .collect();
    Ok(Answer::json(
        &json!({ "versions": all, "nextCursor": next }),
    ))
}

/// An older version becomes the newest one; a removed template is there again.
pub fn restore(request: &Request) -> Result<Answer, Failure> {
    let Input { path, body, .. } = request.parse()?;
    let now = row(&path.id)?;
    let version = body.version.unwrap_or_else(|| int(&now, 3));
    let statement = format!(
        "with o as (select kind, subject, html, text, sample from public.email_template_versions where template_id = $1 and version = $2), \
         t as (update public.email_templates e set kind = o.kind, subject = o.subject, html = o.html, text = o.text, sample = o.sample, \
         updated_by = $3, updated_at = now(), removed_at = null, version = e.version + 1 from o where e.id = $1 returning e.*), {VERSION} \
         select {COLUMNS} from t"
    );
    let rows = query(
        &statement,
        &[
            text(path.id),
            Cell::Int(version),
            optional(actor(&request.caller)),
        ],
    )
    .map_err(database::failed)?;
    let restored = rows.first();
    let restored = restored.ok_or_else(no_version)?;
    Ok(Answer::json(&shown(restored)))
}

/// Jobs cannot name it any more; its versions stay.
pub fn remove(request: &Request) -> Result<Answer, Failure> {
    let Input { path, .. } = request.parse()?;
    let rows = query(
        "update public.email_templates set removed_at = now(), updated_by = $2, updated_at = now() where id = $1 and removed_at is null \
         returning id",
        &[text(path.id), optional(actor(&request.caller))],
    )
    .map_err(unreadable)?;
    rows.first().ok_or_else(gone)?;
    Ok(Answer::empty())
}

/// What a mail would look like: of a stored template, or of one that is not saved yet.
pub fn preview(request: &Request) -> Result<Answer, Failure> {
    let Input { path, body, .. } = request.parse()?;
    let stored = match path.id.as_str() {
        "" => None,
        id => Some(row(id)?),
    };
    let draft = Draft::of(&body, stored.as_deref())?;
    let variables = body.variables.as_ref().unwrap_or(&draft.sample);
    let (subject, html, plain) = draft.rendered(variables)?;
    Ok(Answer::json(
        &json!({ "subject": subject, "html": html, "text": plain }),
    ))
}

/// A real mail of it, to whoever asks, and to nobody else.
pub fn test(request: &Request) -> Result<Answer, Failure> {
    let Input { path, body, .. } = request.parse()?;
    let stored = row(&path.id)?;
    let is_operator = request.caller.role.as_deref() == Some("operator");
    let to = match (
        &request.caller.email,
        body.to.as_deref().filter(|_| is_operator),
    ) {
        (_, Some(to)) => to.to_owned(),
        (Some(email), None) => email.clone(),
        (None, None) => {
            return Err(Failure::invalid_input(
                "to",
                "is missing: where should the test go?",
            ));
        }
    };
    let draft = Draft::of(&Body::default(), Some(&stored))?;
    let variables = body.variables.as_ref().unwrap_or(&draft.sample);
    draft.rendered(variables)?;
    let data = json!({
        "to": to, "template": text_at(&stored, 1), "templateVersion": int(&stored, 3), "variables": variables,
        "sentBy": actor(&request.caller),
    });
    let ids = queue::enqueue(&[NewJob::new(QUEUE, "template", &data)])
        .map_err(|error| Failure::new("unavailable", error.message, Retry::Backoff))?;
    Ok(Answer::json(&json!({ "jobId": ids.first() })))
}

fn conflict(text: &str) -> Failure {
    Failure::new("conflict", text, Retry::Never)
}

fn gone() -> Failure {
    Failure::new("not-found", "there is no such template", Retry::Never)
}

fn no_version() -> Failure {
    Failure::new("not-found", "there is no such version", Retry::Never)
}

/// An id that is no UUID is nobody's.
fn unreadable(error: patchbay_plugin::sql::Error) -> Failure {
    match error.code.as_str() {
        database::UNREADABLE => gone(),
        _ => database::failed(error),
    }
}

fn row(id: &str) -> Result<database::Row, Failure> {
    let statement = format!("select {COLUMNS} from public.email_templates where id = $1");
    let rows = query(&statement, &[text(id)]).map_err(unreadable)?;
    rows.into_iter().next().ok_or_else(gone)
}

fn shown(row: &database::Row) -> Value {
    json!({
        "id": text_at(row, 0), "name": text_at(row, 1), "kind": text_at(row, 2), "version": int(row, 3),
        "subject": text_at(row, 4), "html": text_at(row, 5), "text": text_at(row, 6), "sample": json_at(row, 7),
        "createdBy": text_at(row, 8), "updatedBy": text_at(row, 9), "createdAt": text_at(row, 10), "updatedAt": text_at(row, 11),
        "removedAt": text_at(row, 12),
    })
}
