//! Accounts that plugins propose.

use patchbay_model::PluginName;
use serde_json::{Map, Value, json};
use sqlx::types::Uuid;

use super::UsersTable;
use super::codes::lock_address;
use super::users::{self, UserKey};
use crate::audit::plugin_event;
use crate::{Store, StoreError};

impl Store {
    /// The id of the account with this address, and whether this has made it, from these columns. One
    /// account more than `max_per_day` that this plugin has made within 24 hours is a conflict. A new
    /// one is an entry of the trail `plugins`, in the same transaction.
    pub async fn propose_user(
        &self,
        table: &UsersTable,
        plugin: &PluginName,
        email_norm: &str,
        values: &Map<String, Value>,
        max_per_day: u32,
    ) -> Result<(String, bool), StoreError> {
        let key = UserKey::Email {
            typed: email_norm,
            norm: email_norm,
        };
        let mut tx = self.pool.begin().await?;
        // One after the other, so that two calls together do not make more than `max_per_day`.
        sqlx::query("select from plugins where name = $1 for no key update")
            .bind(plugin.as_str())
            .execute(&mut *tx)
            .await?;
        lock_address(&mut tx, email_norm).await?;
        if let Some(user) = users::find(&mut tx, table, key).await? {
            return Ok((user.id, false));
        }
        let made: i64 = sqlx::query_scalar(
            "select count(*) from audit_entries where trail = 'plugins' and action = 'account.propose' and entity = $1 \
             and at > now() - interval '1 day'",
        )
        .bind(plugin.as_str())
        .fetch_one(&mut *tx)
        .await?;
        if made >= i64::from(max_per_day) {
            return Err(StoreError::Conflict(format!(
                "{plugin} has made {made} accounts within 24 hours, and asks for at most {max_per_day}"
            )));
        }
        let id = Uuid::now_v7().to_string();
        if !users::create(&mut tx, table, &id, email_norm, values).await? {
            // By somebody who does not lock, such as the old backend.
            let found = users::find(&mut tx, table, key).await?;
            return found.map(|user| (user.id, false)).ok_or_else(|| {
                StoreError::Conflict("the account was made and removed meanwhile".into())
            });
        }
        let told = json!({ "account": id });
        let actor = format!("plugin {plugin}");
        plugin_event(&mut tx, plugin.as_str(), "account.propose", &actor, &told).await?;
        tx.commit().await?;
        Ok((id, true))
    }
}
