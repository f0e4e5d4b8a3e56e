//! Audit trails and their entries. Entries are only added; the database refuses every other change.
//!
//! | module | owns |
//! |---|---|
//! | `trails` | what operators define of trails |
//! | `ledger` | entries of the host |
//! | `plugin_entries` | entries of plugins |
//! | `route_entries` | entries about requests to routes of plugins |
//! | `projection` | tables of the old backend that get a copy |
//! | `chain` | sealing entries into batches |
//! | `snapshot` | what a verification reads |
//! | `retention` | what may be deleted, and deleting it |
//! | `import` | old rows of the old backend's tables |
//! | `protection` | who could change the tables |

mod chain;
mod import;
mod ledger;
mod plugin_entries;
mod projection;
mod protection;
mod retention;
mod route_entries;
mod snapshot;
mod trails;

use chrono::{DateTime, Utc};
use patchbay_model::{PluginName, TrailName};
use serde_json::Value;

pub use self::chain::{BatchRow, NewBatch, PendingAge, Sealable, Sealed};
pub use self::import::{ImportColumns, ImportStep};
pub(crate) use self::ledger::plugin_event;
pub use self::ledger::{NewHostEntry, append_host_entry};
pub use self::protection::Protection;
pub use self::retention::{Expired, ExpiryRow, RetainedTrail};
pub use self::route_entries::NewRouteEntry;
pub use self::snapshot::{AuditSnapshot, StoredEntry, VerificationRow};
pub use self::trails::{TrailDefinition, TrailRow};

use crate::{Store, StoreError};

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AuditRow {
    /// Rises with time; it is the cursor of a list.
    pub id: i64,
    pub trail: String,
    /// Distinguishes the entries of one job.
    pub entry_key: String,
    /// The plugin that wrote it; absent: the host did.
    pub plugin: Option<String>,
    /// Digest of the revision.
    pub revision: Option<String>,
    /// Queue of the job that wrote the entry; absent outside of jobs.
    pub queue: Option<String>,
    pub job_id: Option<String>,
    /// Correlation id of the request that caused the entry.
    pub correlation_id: Option<String>,
    pub at: DateTime<Utc>,
    pub entry: Value,
    /// See [`patchbay_model::audit::ActorKind`]. Absent in entries of versions before.
    pub actor_kind: Option<String>,
    pub actor_id: Option<String>,
    pub actor_name: Option<String>,
    pub action: Option<String>,
    /// What it was done to.
    pub entity: Option<String>,
    /// Of the client.
    pub address: Option<String>,
    pub platform: Option<String>,
    /// `live`, or `import`: an old row, taken over at `at`.
    pub origin: String,
}

/// An absent field does not restrict the entries.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub trail: Option<TrailName>,
    pub plugin: Option<PluginName>,
    pub queue: Option<String>,
    pub job: Option<String>,
    /// Id or name of whoever did it, or a plugin's name.
    pub actor: Option<String>,
    /// Id of an account: only what it did itself.
    pub account: Option<String>,
    pub action: Option<String>,
    pub entity: Option<String>,
    pub since: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
    /// A cursor: only entries with smaller ids.
    pub before: Option<i64>,
}

impl Store {
    /// Newest first.
    pub async fn audit_entries(
        &self,
        filter: &AuditFilter,
        most: i64,
    ) -> Result<Vec<AuditRow>, StoreError> {
        // Only conditions that are set are part of the statement, so that each finds its index.
        let mut query = sqlx::QueryBuilder::new(
            "select id, trail, entry_key, plugin, revision, queue, job_id, correlation_id, at, entry, actor_kind, actor_id, actor_name, \
             action, entity, host(address) as address, platform, origin from audit_entries where true",
        );
        let texts = [
            ("trail", filter.trail.as_ref().map(TrailName::as_str)),
            ("plugin", filter.plugin.as_ref().map(PluginName::as_str)),
            ("queue", filter.queue.as_deref()),
            ("job_id", filter.job.as_deref()),
            ("action", filter.action.as_deref()),
            ("entity", filter.entity.as_deref()),
        ];
        for (column, value) in texts
            .into_iter()
            .filter_map(|(column, value)| Some((column, value?)))
        {
            query
                .push(format_args!(" and {column} = "))
                .push_bind(value);
        }
        if let Some(actor) = &filter.actor {
            query.push(" and (actor_id = ").push_bind(actor);
            query.push(" or actor_name = ").push_bind(actor);
            query.push(" or plugin = ").push_bind(actor).push(")");
        }
        if let Some(account) = &filter.account {
            query
                .push(" and actor_kind = 'user' and actor_id = ")
                .push_bind(account);
        }
        if let Some(since) = filter.since {
            query.push(" and at >= ").push_bind(since);
        }
        if let Some(until) = filter.until {
            query.push(" and at < ").push_bind(until);
        }
        if let Some(before) = filter.before {
            query.push(" and id < ").push_bind(before);
        }
        query.push(" order by id desc limit ").push_bind(most);
        Ok(query.build_query_as().fetch_all(&self.pool).await?)
    }
}
