//! Reminds learners of a course: each at most once a day, over all courses and however often the
//! job runs. The mark and the message's job are one transaction.

use patchbay_plugin::queue::NewJob;
use patchbay_plugin::sql::{self, Value as Cell};
use patchbay_plugin::{Failure, Job, Retry, Value, json};
use serde::Deserialize;

use crate::configs::{Config, Reminder};
use crate::database::{Row, int, text, text_at};
use crate::job_ids;
use crate::settings::Settings;
use crate::time;

/// Learners per transaction, which ends by itself after 5 s.
const AT_ONCE: i64 = 200;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    config_id: i64,
}

pub fn run(job: &Job) -> Result<Value, Failure> {
    let data: Data = job.parse()?;
    let settings = Settings::load()?;
    let config = Config::find(data.config_id)?;
    let Some((config, reminder)) = config
        .filter(|config| config.enabled)
        .and_then(|config| Some((config.clone(), config.reminder?)))
    else {
        return Ok(json!({ "skipped": "no-reminder" }));
    };
    let until = job.deadline.saturating_sub(10_000);
    let (mut reminded, mut after) = (0, String::new());
    loop {
        let (last, count) = some(&config, &reminder, &settings, &after)?;
        reminded += count;
        match last {
            Some(last) if time::now() < until => after = last,
            Some(_) => {
                // The marks of today say who is done.
                let told = format!("{reminded} learners are reminded, and time is up");
                return Err(Failure::new("unavailable", told, Retry::AfterMs(1_000)));
            }
            None => return Ok(json!({ "reminded": reminded, "channel": reminder.channel })),
        }
    }
}

/// The next learners: the last of them, unless there are no more, and how many were reminded.
fn some(
    config: &Config,
    reminder: &Reminder,
    settings: &Settings,
    after: &str,
) -> Result<(Option<String>, usize), Failure> {
    let is_mail = reminder.channel == "email";
    let zone = reminder.tz.as_deref().unwrap_or(&settings.reminder_zone);
    let reachable = match is_mail {
        true => "l.email like '%_@_%'",
        false => "l.mobile ~ '[0-9]{6}'",
    };
    let transaction = sql::begin().map_err(failed)?;
    let statement = format!(
        "with due as (select l.id, l.email, l.name, l.mobile, e.progress, e.title from mrlearn.enrolments e join mrlearn.learners l on l.id = e.learner_id \
         where e.course_id = $1 and e.left_at is null and not e.completed and coalesce(e.progress, 0) < $2::int and l.active is not false \
         and {reachable} and l.id > $3 order by l.id limit $4), \
         marked as (insert into mrlearn.reminders (learner_id, day, config_id, channel) select id, (now() at time zone $5)::date, $6::bigint, $7 from due \
         on conflict (learner_id, day) do nothing returning learner_id, day) \
         select due.id, due.email, due.name, due.mobile, round(coalesce(due.progress, 0))::int8, due.title, marked.day::text from due \
         left join marked on marked.learner_id = due.id order by due.id"
    );
    let cells = [
        text(&config.course_id),
        Cell::Int(reminder.below_percent.unwrap_or(100)),
        text(after),
        Cell::Int(AT_ONCE),
        text(zone),
        Cell::Int(config.id),
        text(&reminder.channel),
    ];
    let rows = transaction.query(&statement, &cells).map_err(failed)?.rows;
    let jobs: Vec<NewJob> = rows
        .iter()
        .filter_map(|row| message(row, config, is_mail, settings))
        .collect();
    if !jobs.is_empty() {
        transaction.enqueue(&jobs).map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    let is_full = i64::try_from(rows.len()).unwrap_or_default() == AT_ONCE;
    let last = rows.last().and_then(|row| text_at(row, 0));
    let last = last.filter(|_| is_full).map(str::to_owned);
    Ok((last, jobs.len()))
}

/// Nothing for a learner who was reminded today.
fn message(row: &Row, config: &Config, is_mail: bool, settings: &Settings) -> Option<NewJob> {
    let day = text_at(row, 6)?;
    let id = text_at(row, 0)?;
    let course = config
        .course_title
        .as_deref()
        .or_else(|| text_at(row, 5))
        .unwrap_or(&config.course_id);
    let name = text_at(row, 2).unwrap_or("there");
    let progress = int(row, 4).to_string();
    let fill = |template: &str| {
        filled(
            template,
            &[("name", name), ("course", course), ("progress", &progress)],
        )
    };
    let (queue, job, data) = if is_mail {
        let data = json!({
            "to": text_at(row, 1)?, "subject": fill(&settings.reminder_subject), "text": fill(&settings.reminder_text),
        });
        ("emailQueue", "send", data)
    } else {
        let data = json!({
            "to": text_at(row, 3)?, "template": settings.whatsapp_template,
            "variables": { "name": name, "course": course, "progress": progress },
        });
        ("whatsappQueue", "mrlearn-reminder", data)
    };
    Some(NewJob {
        // A relay that repeats itself adds it once.
        id: Some(format!("mrlearn-reminder-{day}-{}", job_ids::part(id))),
        ..NewJob::new(queue, job, &data)
    })
}

/// `{{name}}` and the like. A value is not read again.
fn filled(template: &str, values: &[(&str, &str)]) -> String {
    let (mut text, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once("{{") {
        text += before;
        let Some((name, behind)) = after.split_once("}}") else {
            rest = &rest[before.len()..];
            break;
        };
        let known = values.iter().find(|(known, _)| *known == name.trim());
        text += known.map_or("", |(_, value)| value);
        rest = behind;
    }
    // A line break in a name must not make another header or line.
    text + rest
}

fn failed(error: sql::Error) -> Failure {
    let is_passing = error.retryable || ["unavailable", "timeout"].contains(&error.code.as_str());
    let (code, retry) = match is_passing {
        true => ("unavailable", Retry::Backoff),
        false => ("database", Retry::Never),
    };
    Failure::new(
        code,
        format!("database: {} ({})", error.message, error.code),
        retry,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_filled_in_once_and_what_is_unknown_is_left_out() {
        let values = [("name", "{{course}}"), ("course", "Rust")];
        assert_eq!(
            filled("Hi {{ name }}, {{course}}{{other}}! {{", &values),
            "Hi {{course}}, Rust! {{"
        );
        assert_eq!(filled("plain", &values), "plain");
    }
}
