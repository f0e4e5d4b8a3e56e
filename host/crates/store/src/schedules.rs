//! Schedules that should run: from manifests, and from operators.

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_model::PluginName;
use patchbay_model::schedule::ScheduleId;
use patchbay_model::shell::arguments;
use sqlx::PgConnection;

use crate::history::ERASED;
use crate::{Store, StoreError};

#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ScheduleRow {
    pub id: String,
    pub queue: String,
    /// Name of the jobs.
    pub name: String,
    /// Data of the jobs: one JSON document.
    pub data: String,
    /// Milliseconds between ticks. Either this or `cron` is set.
    pub every_ms: Option<i64>,
    pub cron: Option<String>,
    /// Time zone of the cron expression; none means UTC.
    pub tz: Option<String>,
    /// `skip` or `once`.
    pub missed: String,
    pub description: String,
    /// The plugin whose manifest declares it.
    pub plugin: Option<String>,
    /// An operator has changed it.
    pub overridden: bool,
    pub paused_by: Option<String>,
    pub paused_at: Option<DateTime<Utc>>,
    pub updated_at: DateTime<Utc>,
    pub updated_by: String,
    /// The plugin that has made it at run time.
    pub owner: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleFields {
    pub id: ScheduleId,
    pub queue: String,
    pub name: String,
    pub data: String,
    pub every_ms: Option<i64>,
    pub cron: Option<String>,
    pub tz: Option<String>,
    pub missed: String,
    pub description: String,
}

/// A schedule that was removed, and can be restored.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct RemovedScheduleRow {
    /// As it was.
    #[sqlx(flatten)]
    pub schedule: ScheduleRow,
    pub removed_at: DateTime<Utc>,
    pub restorable_until: DateTime<Utc>,
}

/// The newest attempt of a scheduler's jobs.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct LastRunRow {
    pub queue: String,
    /// Id of the scheduler.
    pub id: String,
    pub job_id: String,
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    pub outcome: String,
    pub verdict: String,
    pub code: Option<String>,
    pub plugin: Option<String>,
    pub source: String,
}

/// How long a removed schedule can be restored, in days.
const RESTORABLE_DAYS: i32 = 30;

pub(crate) const COLUMNS: &str = "id, queue, name, data, every_ms, cron, tz, missed, description, plugin, overridden, paused_by, paused_at, \
                       updated_at, updated_by, owner";

/// Leaves out what a plugin has made at run time while no active revision of it asks for that: such
/// a schedule has no ticks. It is there again with the revision, paused if it was.
const STANDS: &str = "schedules.owner is null or exists (select from plugins p join revisions r on r.digest = p.active where p.name = schedules.owner \
    and starts_with(schedules.id, r.manifest -> 'runtime_schedules' ->> 'prefix') \
    and r.manifest -> 'runtime_schedules' -> 'queues' ? schedules.queue)";

impl Store {
    /// Those that stand, sorted by id.
    pub async fn schedules(&self) -> Result<Vec<ScheduleRow>, StoreError> {
        let text = format!("select {COLUMNS} from schedules where {STANDS} order by id");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(text))
            .fetch_all(&self.pool)
            .await?)
    }

    pub async fn schedule(&self, id: &ScheduleId) -> Result<ScheduleRow, StoreError> {
        let text = format!("select {COLUMNS} from schedules where id = $1");
        let row = sqlx::query_as(sqlx::AssertSqlSafe(text))
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await?;
        if row.is_none() {
            let query = sqlx::query_scalar(
                "select removed_at from removed_schedules where id = $1 and removed_at >= now() - make_interval(days => $2)",
            );
            let removed: Option<DateTime<Utc>> = query
                .bind(id.as_str())
                .bind(RESTORABLE_DAYS)
                .fetch_optional(&self.pool)
                .await?;
            if let Some(at) = removed {
                let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
                return Err(StoreError::NotFound(format!(
                    "Schedule {id} was removed at {at}. To restore it: patchbay schedule restore {}",
                    arguments(&[id.as_str()])
                )));
            }
        }
        row.ok_or_else(|| {
            StoreError::NotFound(format!(
                "There is no schedule {id}. See: patchbay schedule list"
            ))
        })
    }

    /// Those that can be restored, the newest removal first. One whose id is in use again is left
    /// out.
    pub async fn removed_schedules(&self) -> Result<Vec<RemovedScheduleRow>, StoreError> {
        let query = sqlx::query_as(
            "select s.*, r.removed_at, r.removed_at + make_interval(days => $1) as restorable_until \
             from removed_schedules r, jsonb_populate_record(null::schedules, r.schedule) s \
             where r.removed_at >= now() - make_interval(days => $1) \
             and not exists (select from schedules there where there.id = r.id) order by r.removed_at desc, r.id",
        );
        Ok(query.bind(RESTORABLE_DAYS).fetch_all(&self.pool).await?)
    }

    /// The newest attempt of each of these schedulers (queue and id), also of other clients' ones,
    /// that the history knows: of a tick, or of a job that an operator had it add
    /// (`schedule.run`). `prefix` is BullMQ's key prefix.
    pub async fn last_runs(
        &self,
        prefix: &str,
        schedulers: &[(&str, &str)],
    ) -> Result<Vec<LastRunRow>, StoreError> {
        let (queues, ids): (Vec<&str>, Vec<&str>) = schedulers.iter().copied().unzip();
        // A partial index has the expression: see migrations/0034_lengths_and_steps.sql.
        let query = sqlx::query_as(
            "select s.queue, s.id, a.job_id, a.started_at, a.finished_at, a.outcome, a.verdict, a.code, a.plugin, a.source \
             from unnest($2::text[], $3::text[]) as s (queue, id), lateral (select * from ( \
             (select * from attempts where prefix = $1 and attempts.queue = s.queue and job_id like 'repeat:%' \
             and substring(job_id from '^repeat:(.*):[0-9.]+$') = s.id order by finished_at desc limit 1) \
             union all (select attempts.* from (select began_at, result ->> 'id' as job_id from operator_actions \
             where target = s.id and action = 'schedule.run' and error is null and result ->> 'queue' = s.queue \
             order by id desc limit 5) run join attempts on prefix = $1 and attempts.queue = s.queue \
             and attempts.job_id = run.job_id \
             and abs(job_created_ms - extract(epoch from run.began_at) * 1000) < 600000 \
             order by finished_at desc limit 1)) known order by finished_at desc limit 1) a",
        );
        Ok(query
            .bind(prefix)
            .bind(queues)
            .bind(ids)
            .fetch_all(&self.pool)
            .await?)
    }

    /// Creates an operator's schedule. An id that exists is a conflict.
    pub async fn create_schedule(
        &self,
        fields: &ScheduleFields,
        actor: &str,
    ) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        if insert(&mut connection, fields, None, actor).await? {
            return Ok(());
        }
        Err(StoreError::Conflict(format!(
            "There is already a schedule {}: edit it instead",
            fields.id
        )))
    }

    pub async fn change_schedule(
        &self,
        fields: &ScheduleFields,
        actor: &str,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "update schedules set queue = $2, name = $3, data = $4, every_ms = $5, cron = $6, tz = $7, missed = $8, description = $9, \
             overridden = plugin is not null, updated_at = now(), updated_by = $10 where id = $1",
        );
        let changed = bind(query, fields)
            .bind(actor)
            .execute(&self.pool)
            .await?
            .rows_affected();
        found(changed, &fields.id)
    }

    /// Pauses or resumes the ticks. False if the schedule was paused, or not paused, already: then
    /// nothing changes.
    pub async fn pause_schedule(
        &self,
        id: &ScheduleId,
        paused: bool,
        actor: &str,
    ) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "update schedules set paused_by = case when $2 then $3 end, paused_at = case when $2 then now() end, updated_at = now(), \
             updated_by = $3 where id = $1 and (paused_by is not null) <> $2",
        );
        let changed = query
            .bind(id.as_str())
            .bind(paused)
            .bind(actor)
            .execute(&self.pool)
            .await?
            .rows_affected();
        if changed == 0 {
            self.schedule(id).await?;
        }
        Ok(changed > 0)
    }

    /// Deletes an operator's schedule. A plugin's would come back at the next sync.
    pub async fn delete_schedule(&self, id: &ScheduleId) -> Result<(), StoreError> {
        let row = self.schedule(id).await?;
        if let Some(plugin) = row.plugin {
            let text = format!(
                "Schedule {id} belongs to plugin {plugin}: pause it, or remove it from the plugin's manifest"
            );
            return Err(StoreError::Conflict(text));
        }
        let query = sqlx::query(
            "with gone as (delete from schedules where id = $1 and plugin is null returning *), \
             old as (delete from removed_schedules where removed_at < now() - make_interval(days => $2)) \
             insert into removed_schedules (id, schedule) select id, to_jsonb(gone) from gone \
             on conflict (id) do update set schedule = excluded.schedule, removed_at = now()",
        );
        query
            .bind(id.as_str())
            .bind(RESTORABLE_DAYS)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Creates a removed schedule again, as it was.
    pub async fn restore_schedule(&self, id: &ScheduleId, actor: &str) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let query = sqlx::query_scalar(
            "delete from removed_schedules where id = $1 and removed_at >= now() - make_interval(days => $2) \
             returning schedule",
        );
        let removed: Option<serde_json::Value> = query
            .bind(id.as_str())
            .bind(RESTORABLE_DAYS)
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(removed) = removed else {
            return Err(StoreError::NotFound(format!(
                "No schedule {id} was removed in the last {RESTORABLE_DAYS} days. See: patchbay schedule list --removed"
            )));
        };
        let query = sqlx::query(
            "insert into schedules select (jsonb_populate_record(null::schedules, $1)).* on conflict (id) do nothing",
        );
        let made = query.bind(removed).execute(&mut *transaction).await?;
        if made.rows_affected() == 0 {
            return Err(StoreError::Conflict(format!(
                "There is a schedule {id} again. Remove it first, or keep it"
            )));
        }
        // Jobs with such data would fail, or reach nobody.
        let query = sqlx::query(
            "update schedules set paused_by = coalesce(paused_by, $2), paused_at = coalesce(paused_at, now()) \
             where id = $1 and strpos(data, $3) > 0",
        );
        let query = query.bind(id.as_str()).bind(actor).bind(ERASED);
        let erased = query.execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(erased.rows_affected() > 0)
    }

    /// Makes a plugin's schedules equal to its manifest, except for those that operators changed.
    /// An id that belongs to another owner is left alone; staging has refused it.
    pub async fn sync_schedules(
        &self,
        plugin: &PluginName,
        wanted: &[ScheduleFields],
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        let ids: Vec<&str> = wanted.iter().map(|fields| fields.id.as_str()).collect();
        sqlx::query("delete from schedules where plugin = $1 and not (id = any($2))")
            .bind(plugin.as_str())
            .bind(&ids)
            .execute(&mut *transaction)
            .await?;
        for fields in wanted {
            if insert(&mut transaction, fields, Some(plugin), plugin.as_str()).await? {
                continue;
            }
            let query = sqlx::query(
                "update schedules set queue = $2, name = $3, data = $4, every_ms = $5, cron = $6, tz = $7, missed = $8, description = $9, \
                 updated_at = now(), updated_by = $10 where id = $1 and plugin = $10 and not overridden and \
                 (queue, name, data, every_ms, cron, tz, missed, description) is distinct from ($2, $3, $4, $5, $6, $7, $8, $9)",
            );
            bind(query, fields)
                .bind(plugin.as_str())
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }

    pub async fn plugins_with_schedules(&self) -> Result<Vec<PluginName>, StoreError> {
        let names: Vec<String> =
            sqlx::query_scalar("select distinct plugin from schedules where plugin is not null")
                .fetch_all(&self.pool)
                .await?;
        Ok(names
            .into_iter()
            .filter_map(|name| name.parse().ok())
            .collect())
    }
}

pub(crate) type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

pub(crate) fn bind<'q>(query: Query<'q>, fields: &'q ScheduleFields) -> Query<'q> {
    query
        .bind(fields.id.as_str())
        .bind(&fields.queue)
        .bind(&fields.name)
        .bind(&fields.data)
        .bind(fields.every_ms)
        .bind(&fields.cron)
        .bind(&fields.tz)
        .bind(&fields.missed)
        .bind(&fields.description)
}

/// Returns whether the schedule was new.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    fields: &ScheduleFields,
    plugin: Option<&PluginName>,
    actor: &str,
) -> Result<bool, StoreError> {
    let query = sqlx::query(
        "insert into schedules (id, queue, name, data, every_ms, cron, tz, missed, description, plugin, created_by, updated_by) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11) on conflict (id) do nothing",
    );
    let query = bind(query, fields)
        .bind(plugin.map(PluginName::as_str))
        .bind(actor);
    Ok(query.execute(connection).await?.rows_affected() == 1)
}

fn found(rows: u64, id: &ScheduleId) -> Result<(), StoreError> {
    if rows == 0 {
        Err(StoreError::NotFound(format!(
            "There is no schedule {id}. See: patchbay schedule list"
        )))
    } else {
        Ok(())
    }
}
