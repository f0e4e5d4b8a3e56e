//! `GET /api/graphy/sync/students`: learners with what they do over all courses.

use patchbay_plugin::sql::Value as Cell;
use patchbay_plugin::{Answer, Failure, Request, Value, json};
use serde::Deserialize;

use crate::database::{self, optional, text_at, value};

#[derive(Deserialize)]
struct Input {
    #[serde(default)]
    query: Query,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Query {
    limit: Option<i64>,
    after: Option<String>,
    search: Option<String>,
    course_id: Option<String>,
}

pub fn list(request: &Request) -> Result<Answer, Failure> {
    let Input { query } = request.parse()?;
    let limit = query.limit.unwrap_or(50).clamp(1, 200);
    let rows = database::query(
        "select l.id, jsonb_build_object('id', l.id, 'email', l.email, 'name', l.name, 'mobile', l.mobile, 'active', l.active, \
         'lastLoginAt', l.last_login_at, 'courses', c.courses, 'completed', c.completed, 'averageProgress', c.average, \
         'timeSeconds', c.time_s, 'lastAccessAt', c.last_access_at, 'perCourse', c.each, \
         'accountId', (select a.account_id from mrlearn.accounts a where a.learner_id = l.id)) \
         from mrlearn.learners l cross join lateral (select count(*) as courses, count(*) filter (where e.completed) as completed, \
         round(avg(e.progress), 1) as average, sum(coalesce(e.time_spent_s, e.total_time_s)) as time_s, max(e.last_access_at) as last_access_at, \
         jsonb_agg(jsonb_build_object('courseId', e.course_id, 'title', e.title, 'progress', e.progress, 'completed', e.completed, \
         'lastAccessAt', e.last_access_at) order by e.course_id) as each from mrlearn.enrolments e \
         where e.learner_id = l.id and e.left_at is null) c where c.courses > 0 and ($1::text is null or l.id > $1) \
         and ($2::text is null or strpos(lower(coalesce(l.email, '') || ' ' || coalesce(l.name, '')), lower($2)) > 0) \
         and ($3::text is null or exists (select from mrlearn.enrolments e where e.learner_id = l.id and e.course_id = $3 and e.left_at is null)) \
         order by l.id limit $4",
        &[
            optional(query.after.as_deref()),
            optional(query.search.as_deref()),
            optional(query.course_id.as_deref()),
            Cell::Int(limit),
        ],
    )?;
    let students: Vec<Value> = rows.iter().map(|row| value(row.get(1))).collect();
    let is_full = i64::try_from(rows.len()).unwrap_or(limit) >= limit;
    let last = rows.last().and_then(|row| text_at(row, 0));
    let next = last.filter(|_| is_full);
    Ok(Answer::json(
        &json!({ "students": students, "nextCursor": next }),
    ))
}
