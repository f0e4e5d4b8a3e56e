//! What activated revisions redact in the jobs of each queue. Stored apart from the revisions,
//! which may be deleted before the jobs are.

use patchbay_model::{DataPath, PluginName, QueueName, RevisionDigest};
use sqlx::{PgConnection, Row};

use crate::rows::damaged;
use crate::{Store, StoreError};

/// What one plugin redacts, or has redacted, in one queue's jobs.
#[derive(Debug, Clone)]
pub struct RedactionRow {
    pub queue: QueueName,
    /// Paths of the revision that was activated last.
    pub paths: Vec<DataPath>,
    /// Paths of all revisions that were ever activated.
    pub ever: Vec<DataPath>,
    /// Whether that last revision is the plugin's active one and not quarantined.
    pub is_current: bool,
}

/// Stores the redactions of a revision that becomes active.
pub(crate) async fn note(
    connection: &mut PgConnection,
    plugin: &PluginName,
    digest: &RevisionDigest,
) -> Result<(), StoreError> {
    let query = sqlx::query(
        "insert into queue_redactions as known (plugin, queue, digest, paths, ever) \
         select r.plugin, q ->> 'name', r.digest, p.paths, p.paths from revisions r, \
         jsonb_array_elements(coalesce(r.manifest -> 'queues', '[]')) q, \
         lateral (select array(select jsonb_array_elements_text(coalesce(q -> 'redact', '[]'))) as paths) p \
         where r.plugin = $1 and r.digest = $2 \
         on conflict (plugin, queue) do update set digest = excluded.digest, paths = excluded.paths, \
         ever = array(select distinct unnest(known.ever || excluded.paths))",
    );
    query
        .bind(plugin.as_str())
        .bind(digest.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    pub async fn redactions(&self) -> Result<Vec<RedactionRow>, StoreError> {
        let query = sqlx::query(
            "select k.queue, k.paths, k.ever, exists(select from plugins p join revisions r on r.digest = p.active \
             where p.name = k.plugin and p.active = k.digest and r.state <> 'quarantined') as is_current from queue_redactions k",
        );
        let rows = query.fetch_all(&self.pool).await?;
        let paths = |texts: Vec<String>| -> Result<Vec<DataPath>, StoreError> {
            texts
                .into_iter()
                .map(|text| text.parse().map_err(damaged))
                .collect()
        };
        rows.into_iter()
            .map(|row| {
                Ok(RedactionRow {
                    queue: row
                        .try_get::<String, _>("queue")?
                        .parse()
                        .map_err(damaged)?,
                    paths: paths(row.try_get("paths")?)?,
                    ever: paths(row.try_get("ever")?)?,
                    is_current: row.try_get("is_current")?,
                })
            })
            .collect()
    }
}
