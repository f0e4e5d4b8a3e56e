//! For operators who are locked out: a new link, from a machine with the database and the master
//! key, without a running host.

use chrono::{DateTime, Utc};
use patchbay_model::audit::{ActorKind, OPERATORS};
use patchbay_store::{BasicMode, NewHostEntry, Store, StoreError};
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::enrolment::{LINK_LIFE, new_link_text};

/// A link that was made.
pub struct Recovered {
    pub link: Zeroizing<String>,
    pub ends_at: DateTime<Utc>,
}

/// Ends what the operator has open, and makes a link; with `basic_on`, the login of the
/// configuration opens the API again. Both stand in the trail of operators. `None`: there is no such
/// operator.
pub async fn recover(
    store: &Store,
    name: &str,
    basic_on: bool,
    machine: &str,
) -> Result<Option<Recovered>, StoreError> {
    let (link, hash) = new_link_text();
    let Some(row) = store.recover_operator(name, &hash, LINK_LIFE).await? else {
        return Ok(None);
    };
    let actor = format!("host {machine}");
    if basic_on {
        store.set_basic_mode(BasicMode::On, &actor, true).await?;
    }
    let key = Uuid::now_v7().to_string();
    let entry = NewHostEntry {
        trail: OPERATORS,
        entry_key: &key,
        actor_kind: ActorKind::Host,
        actor_id: Some(&actor),
        actor_name: Some(&actor),
        action: "operator.recover",
        entity: Some(&row.name),
        address: None,
        platform: None,
        correlation_id: None,
        entry: &json!({ "basicOn": basic_on }),
    };
    store.append_entry(&entry).await?;
    Ok(Some(Recovered {
        link,
        ends_at: Utc::now() + LINK_LIFE,
    }))
}
