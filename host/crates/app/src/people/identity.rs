//! Whose request it is: the account and its session as they are now, remembered for some seconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use patchbay_store::{IdentityChange, SessionView, UserKey};
use uuid::Uuid;

use super::{People, PeopleParts, Principal, Role, forbidden, invalid_token, unauthorized, within};
use crate::error::Error;
use crate::identity_changes::Follower;
use crate::remembered::{Asked, MOST_REMEMBERED, Remembered};

/// What this process remembers of sessions.
#[derive(Default)]
pub(super) struct Identities {
    known: Remembered<Uuid, SessionView>,
    /// Sessions whose use is noted in Postgres, a minute apart.
    touched: Mutex<HashMap<Uuid, Instant>>,
}

impl Identities {
    fn changed(&self, change: &IdentityChange) {
        match change {
            IdentityChange::User(id) => self.known.drop_those(|_, view| view.user.id == *id),
            IdentityChange::Session(id) => {
                let session = id.parse::<Uuid>().ok();
                self.known.drop_those(|known, _| Some(*known) == session);
            }
            IdentityChange::All => self.known.drop_those(|_, _| true),
            _ => {}
        }
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
        if let Some(known) = self.identities.known.get(&session) {
            return Ok(Some(known));
        }
        let drops = self.identities.known.drops();
        let table = self.table().await?;
        let view = within(self.store.session_view(table, session)).await?;
        let view = view.map(Arc::new);
        if let Some(view) = &view {
            self.identities.known.put(session, view, drops);
        }
        Ok(view)
    }

    /// This process has changed something itself: its own next request must see it.
    pub(super) fn user_changed(&self, id: &str) {
        self.identities
            .changed(&IdentityChange::User(id.to_owned()));
    }
}

impl Follower for PeopleParts {
    fn asked(&self) -> Asked {
        self.identities.known.asked()
    }

    fn set_hears(&self, hears: bool) {
        self.identities.known.set_hears(hears);
        self.tokens.set_hears(hears);
    }

    fn changed(&self, change: &IdentityChange) {
        self.identities.changed(change);
        self.tokens.changed(change);
    }
}
