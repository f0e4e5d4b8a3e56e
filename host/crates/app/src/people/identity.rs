//! Whose request it is: the account and its session as they are now, remembered for some seconds.
//!
//! A change is told to every host in the transaction that makes it, and drops what they remember.
//! While a host does not hear such changes, it remembers nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use patchbay_store::{IdentityChange, SessionView, UserKey};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{People, PeopleParts, Principal, Role, forbidden, invalid_token, unauthorized, within};
use crate::error::Error;

/// What another program changes in the table shows after this time.
const REMEMBERED_FOR: Duration = Duration::from_secs(5);
const MOST_REMEMBERED: usize = 50_000;
/// Between two looks at whether changes are still heard.
const PING_EVERY: Duration = Duration::from_millis(500);
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What this process remembers of sessions.
#[derive(Default)]
pub(super) struct Identities {
    known: Mutex<HashMap<Uuid, (Arc<SessionView>, Instant)>>,
    /// Counts what was dropped: a row that was read before a change must not be remembered after
    /// it.
    drops: AtomicU64,
    hears: AtomicBool,
    /// Sessions whose use is noted in Postgres, a minute apart.
    touched: Mutex<HashMap<Uuid, Instant>>,
}

impl Identities {
    fn get(&self, session: Uuid) -> Option<Arc<SessionView>> {
        if !self.hears.load(Ordering::Acquire) {
            return None;
        }
        let known = self.known.lock();
        let (view, at) = known.get(&session)?;
        (at.elapsed() < REMEMBERED_FOR).then(|| Arc::clone(view))
    }

    fn put(&self, session: Uuid, view: &Arc<SessionView>, drops_before: u64) {
        let mut known = self.known.lock();
        let is_current = self.drops.load(Ordering::Acquire) == drops_before;
        if !is_current || !self.hears.load(Ordering::Acquire) {
            return;
        }
        if known.len() >= MOST_REMEMBERED {
            known.retain(|_, (_, at)| at.elapsed() < REMEMBERED_FOR);
            if known.len() >= MOST_REMEMBERED {
                known.clear();
            }
        }
        known.insert(session, (Arc::clone(view), Instant::now()));
    }

    /// Drops what the change is about.
    pub(super) fn changed(&self, change: &IdentityChange) {
        let mut known = self.known.lock();
        self.drops.fetch_add(1, Ordering::AcqRel);
        match change {
            IdentityChange::User(id) => known.retain(|_, (view, _)| view.user.id != *id),
            IdentityChange::Session(id) => {
                if let Ok(id) = id.parse::<Uuid>() {
                    known.remove(&id);
                }
            }
            IdentityChange::All => known.clear(),
        }
    }

    fn set_hears(&self, hears: bool) {
        self.hears.store(hears, Ordering::Release);
        self.changed(&IdentityChange::All);
    }

    /// Whether the use of a session should be noted now.
    fn is_to_touch(&self, session: Uuid) -> bool {
        const GRAIN: Duration = Duration::from_secs(60);
        let mut touched = self.touched.lock();
        if touched.len() >= MOST_REMEMBERED {
            touched.retain(|_, at| at.elapsed() < GRAIN);
        }
        let now = Instant::now();
        match touched.get(&session) {
            Some(at) if now.duration_since(*at) < GRAIN => false,
            _ => {
                touched.insert(session, now);
                true
            }
        }
    }
}

impl People {
    /// Whose access token this is. `None` stands for a request without one.
    pub async fn authenticate(&self, token: Option<&str>) -> Result<Principal, Error> {
        let parts = self.parts()?;
        let Some(token) = token else {
            return Err(unauthorized("token-missing", "Authorization token missing"));
        };
        parts.principal(token).await
    }
}

impl People {
    /// As [`People::authenticate`], for accounts with the role admin only.
    pub async fn authenticate_admin(&self, token: &str) -> Result<Principal, Error> {
        let principal = self.authenticate(Some(token)).await?;
        match principal.role {
            Some(Role::Admin) => Ok(principal),
            _ => Err(forbidden(
                "forbidden",
                "Access denied. Admin role required.",
            )),
        }
    }
}

impl PeopleParts {
    async fn principal(&self, token: &str) -> Result<Principal, Error> {
        let bearer = self.tokens.check(token, self.now_ms(), false).await?;
        let Some(bearer) = bearer else {
            return Err(invalid_token());
        };
        let Some(session) = bearer.session else {
            return self.of_old_backend(&bearer.user_id).await;
        };
        let Some(view) = self.view(session).await? else {
            return Err(invalid_token());
        };
        if !view.is_valid || view.user.id != bearer.user_id {
            return Err(invalid_token());
        }
        if self.identities.is_to_touch(session) {
            // Only for lists of sessions: losing one costs nothing.
            let store = self.store.clone();
            tokio::spawn(async move { store.touch_session(session).await.ok() });
        }
        Ok(Principal {
            role: Role::parse(&view.user.role),
            is_master: view.method == "master",
            user: Arc::new(view.user.clone()),
            session: Some(session),
        })
    }

    /// A token of the old backend has no session: its account is read each time.
    async fn of_old_backend(&self, user_id: &str) -> Result<Principal, Error> {
        let table = self.table().await?;
        let user = within(self.store.find_user(table, UserKey::Id(user_id))).await?;
        match user.filter(|user| user.is_verified && !user.is_blocked()) {
            Some(user) => Ok(Principal {
                role: Role::parse(&user.role),
                user: Arc::new(user),
                session: None,
                is_master: false,
            }),
            None => Err(invalid_token()),
        }
    }

    async fn view(&self, session: Uuid) -> Result<Option<Arc<SessionView>>, Error> {
        if let Some(known) = self.identities.get(session) {
            return Ok(Some(known));
        }
        let drops = self.identities.drops.load(Ordering::Acquire);
        let table = self.table().await?;
        let view = within(self.store.session_view(table, session)).await?;
        let view = view.map(Arc::new);
        if let Some(view) = &view {
            self.identities.put(session, view, drops);
        }
        Ok(view)
    }

    /// This process has changed something itself: its own next request must see it.
    pub(super) fn user_changed(&self, id: &str) {
        self.identities
            .changed(&IdentityChange::User(id.to_owned()));
    }

    /// Hears of changes until the stop.
    pub(super) async fn hear_changes(&self, stop: CancellationToken) {
        let listening = async {
            let mut changes = self.store.identity_changes();
            let mut was_up = true;
            loop {
                match tokio::time::timeout(POSTGRES_PATIENCE, changes.listen()).await {
                    Ok(Ok(())) => {
                        self.identities.set_hears(true);
                        if !was_up {
                            info!("changes of accounts are heard again");
                        }
                        was_up = true;
                        while let Ok(heard) = changes.next(PING_EVERY, PING_EVERY).await {
                            if let Some(change) = heard {
                                self.identities.changed(&change);
                            }
                        }
                        self.identities.set_hears(false);
                    }
                    Ok(Err(_)) | Err(_) => self.identities.set_hears(false),
                }
                if was_up {
                    warn!(
                        "changes of accounts are not heard: every request asks Postgres until they are"
                    );
                }
                was_up = false;
                tokio::time::sleep(RETRY_AFTER).await;
            }
        };
        stop.run_until_cancelled(listening).await;
        self.identities.set_hears(false);
    }
}

const POSTGRES_PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use patchbay_store::UserRow;

    use super::*;

    fn view(user: &str) -> Arc<SessionView> {
        Arc::new(SessionView {
            user: UserRow {
                id: user.to_owned(),
                email: String::new(),
                password: None,
                role: "user".to_owned(),
                full_name: None,
                phone: None,
                profession: None,
                domain: None,
                profile_photo: None,
                is_verified: true,
                is_profile_complete: false,
                stage: None,
                epoch: 0,
                google_sub: None,
                blocked_at: None,
                blocked_by: None,
                block_reason: None,
                is_blocked_elsewhere: false,
            },
            platform: String::new(),
            method: "password".to_owned(),
            is_valid: true,
        })
    }

    #[test]
    fn a_row_that_was_read_before_a_change_is_not_remembered_after_it() {
        let (identities, session) = (Identities::default(), Uuid::now_v7());
        identities.set_hears(true);
        let before = identities.drops.load(Ordering::Acquire);
        identities.changed(&IdentityChange::User("ada".to_owned()));
        identities.put(session, &view("ada"), before);
        assert!(identities.get(session).is_none());
        let before = identities.drops.load(Ordering::Acquire);
        identities.put(session, &view("ada"), before);
        assert!(identities.get(session).is_some());
        identities.changed(&IdentityChange::User("bob".to_owned()));
        assert!(identities.get(session).is_some());
        identities.changed(&IdentityChange::Session(session.to_string()));
        assert!(identities.get(session).is_none());
    }

    #[test]
    fn a_host_that_hears_no_changes_remembers_nothing() {
        let (identities, session) = (Identities::default(), Uuid::now_v7());
        let before = identities.drops.load(Ordering::Acquire);
        identities.put(session, &view("ada"), before);
        assert!(identities.get(session).is_none());
        identities.set_hears(true);
        let before = identities.drops.load(Ordering::Acquire);
        identities.put(session, &view("ada"), before);
        identities.set_hears(false);
        assert!(identities.get(session).is_none());
        identities.set_hears(true);
        assert!(identities.get(session).is_none(), "emptied meanwhile");
    }
}
