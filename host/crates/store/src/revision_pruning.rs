//! Deletes revisions that are not needed any more.

use patchbay_model::{PluginName, RevisionDigest};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::rows::{digest, plugin};
use crate::{Store, StoreError};

/// Which revisions are always kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// This many newest revisions of each plugin, by their last activation.
    pub revisions: i64,
    /// Revisions that were pushed, were activated, or ran an attempt within this many days.
    pub days: i32,
}

#[derive(Debug, Clone)]
pub struct PrunedRevision {
    pub plugin: PluginName,
    pub digest: RevisionDigest,
    pub version: String,
    pub size_bytes: i64,
}

/// $1: number of revisions, $2: days. The index of attempts has only the beginning of the digest.
const UNNEEDED: &str = "select digest from ( \
       select r.digest, r.plugin, r.state, r.created_at, a.last_at, \
         row_number() over (partition by r.plugin order by greatest(r.created_at, a.last_at) desc) as place \
       from revisions r left join lateral (select max(at) as last_at from activations where digest = r.digest) a on true \
     ) ranked \
     where place > $1 and state in ('staged', 'retired') \
       and greatest(created_at, last_at) < now() - make_interval(days => $2) \
       and not exists (select from plugins p where p.active = ranked.digest) \
       and not exists (select from attempts t where t.plugin = ranked.plugin and t.revision = ranked.digest \
         and left(t.revision, 8) = left(ranked.digest, 8) \
         and t.finished_at > now() - make_interval(days => $2))";
const COLUMNS: &str = "plugin, digest, version, octet_length(component)::bigint as size_bytes";

fn pruned(row: PgRow) -> Result<PrunedRevision, StoreError> {
    Ok(PrunedRevision {
        plugin: plugin(&row)?,
        digest: digest(&row, "digest")?,
        version: row.try_get("version")?,
        size_bytes: row.try_get("size_bytes")?,
    })
}

impl Store {
    /// Deletes all revisions that are not kept, or lists them. Their attempts stay in the history.
    pub async fn prune_revisions(
        &self,
        keep: Keep,
        dry_run: bool,
    ) -> Result<Vec<PrunedRevision>, StoreError> {
        let statement = if dry_run {
            format!(
                "select {COLUMNS} from revisions where digest in ({UNNEEDED}) order by plugin, created_at"
            )
        } else {
            format!("delete from revisions where digest in ({UNNEEDED}) returning {COLUMNS}")
        };
        let query = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(keep.revisions)
            .bind(keep.days);
        query
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(pruned)
            .collect()
    }
}
