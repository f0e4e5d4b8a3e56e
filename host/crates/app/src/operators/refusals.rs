//! Refused attempts, as entries of the trail `operators`: a few a minute of each actor, and then
//! counted. They are noted beside the answer, and never change it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use patchbay_model::audit::{ActorKind, OPERATORS};
use patchbay_store::{NewHostEntry, Store};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Operator;

const WINDOW: Duration = Duration::from_secs(60);
const OF_ONE_ACTOR: u32 = 10;
/// Of all actors together: many networks must not fill the trail either.
const OF_ALL: u32 = 100;
const MOST_ACTORS: usize = 10_000;

/// An attempt that was refused.
#[derive(Debug, Clone)]
pub struct Refused {
    kind: ActorKind,
    /// Whose attempts count together: a name, or an address.
    actor: String,
    action: &'static str,
    /// The operation that was asked for.
    operation: Option<&'static str>,
    code: Option<String>,
    address: Option<IpAddr>,
}

impl Refused {
    /// A failed login. The name that was typed is not kept: it may be a password.
    pub fn login(address: Option<IpAddr>) -> Self {
        Self {
            kind: ActorKind::Anonymous,
            actor: address.map_or_else(|| "unknown".to_owned(), |address| address.to_string()),
            action: "operator.login-failed",
            operation: None,
            code: None,
            address,
        }
    }

    /// An operation that somebody may not call.
    pub fn operation(
        who: &Operator,
        operation: &'static str,
        code: &str,
        address: Option<IpAddr>,
    ) -> Self {
        Self {
            kind: match who.id.is_some() {
                true => ActorKind::Operator,
                false => ActorKind::of_actor(&who.name),
            },
            actor: who.name.to_string(),
            action: "operator.refused",
            operation: Some(operation),
            code: Some(code.to_owned()),
            address,
        }
    }
}

pub(super) struct Refusals {
    store: Store,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    actors: HashMap<String, Window>,
    all: Option<Window>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    began: Instant,
    count: u32,
}

impl Window {
    /// Counts one more, and says whether it is among the first `most` of its minute, and how many of
    /// the minute before were not.
    fn count(window: Option<Self>, most: u32) -> (Self, bool, u32) {
        match window {
            Some(mut window) if window.began.elapsed() < WINDOW => {
                window.count = window.count.saturating_add(1);
                (window, window.count <= most, 0)
            }
            before => {
                let left_out = before.map_or(0, |window| window.count.saturating_sub(most));
                let began = Instant::now();
                (Self { began, count: 1 }, true, left_out)
            }
        }
    }
}

impl Seen {
    /// `None`: enough are noted. Otherwise how many before it were not.
    fn count(&mut self, actor: &str) -> Option<u32> {
        if self.actors.len() >= MOST_ACTORS {
            self.actors
                .retain(|_, window| window.began.elapsed() < WINDOW);
        }
        let known = self.actors.get(actor).copied();
        if known.is_none() && self.actors.len() >= MOST_ACTORS {
            return None;
        }
        let (own, is_among, left_out) = Window::count(known, OF_ONE_ACTOR);
        self.actors.insert(actor.to_owned(), own);
        if !is_among {
            return None;
        }
        let (all, is_among, _) = Window::count(self.all, OF_ALL);
        self.all = Some(all);
        is_among.then_some(left_out)
    }

    /// Those whose minute is over, with how many of it were not noted.
    fn take_left_out(&mut self) -> Vec<(String, u32)> {
        let over: Vec<(String, u32)> = self
            .actors
            .iter()
            .filter(|(_, window)| window.began.elapsed() >= WINDOW)
            .map(|(actor, window)| (actor.clone(), window.count.saturating_sub(OF_ONE_ACTOR)))
            .collect();
        for (actor, _) in &over {
            self.actors.remove(actor);
        }
        over.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

impl Refusals {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            seen: Arc::default(),
        }
    }

    /// Notes an attempt, if not too many were noted.
    pub(super) fn note(&self, refused: Refused) {
        let Some(left_out) = self.seen.lock().count(&refused.actor) else {
            return;
        };
        let store = self.store.clone();
        tokio::spawn(async move {
            let mut details = json!({});
            let mut add = |name: &str, value: Option<Value>| {
                if let (Some(value), Some(details)) = (value, details.as_object_mut()) {
                    details.insert(name.to_owned(), value);
                }
            };
            add("operation", refused.operation.map(Value::from));
            add("code", refused.code.clone().map(Value::from));
            add("leftOutBefore", (left_out > 0).then(|| left_out.into()));
            append(&store, &refused, &details).await;
        });
    }

    /// Notes how many attempts of the minute before were only counted.
    pub(super) async fn note_left_out(&self) {
        let left_out = self.seen.lock().take_left_out();
        for (actor, count) in left_out {
            let refused = Refused {
                kind: ActorKind::Anonymous,
                address: actor.parse().ok(),
                actor,
                action: "operator.refused-more",
                operation: None,
                code: None,
            };
            append(&self.store, &refused, &json!({ "count": count })).await;
        }
    }
}

async fn append(store: &Store, refused: &Refused, details: &Value) {
    let key = Uuid::now_v7().to_string();
    let entry = NewHostEntry {
        trail: OPERATORS,
        entry_key: &key,
        actor_kind: refused.kind,
        actor_id: Some(&refused.actor),
        actor_name: Some(&refused.actor),
        action: refused.action,
        entity: refused.operation,
        address: refused.address,
        platform: None,
        correlation_id: None,
        entry: details,
    };
    if let Err(error) = store.append_entry(&entry).await {
        tracing::warn!(%error, action = refused.action, "a refused attempt is not in the audit trail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_attempts_of_an_actor_are_noted_and_the_others_counted() {
        let mut seen = Seen::default();
        let noted = (0..25).filter(|_| seen.count("ada").is_some()).count();
        assert_eq!(noted, 10);
        assert!(seen.count("bob").is_some(), "another actor");
        let minute_ago = Instant::now().checked_sub(WINDOW).expect("a time");
        for window in seen.actors.values_mut() {
            window.began = minute_ago;
        }
        assert_eq!(seen.count("ada"), Some(15), "what was left out");
        assert!(seen.take_left_out().is_empty(), "bob's are all noted");
    }

    #[test]
    fn all_actors_together_are_bounded() {
        let mut seen = Seen::default();
        let noted = (0..1_000)
            .filter(|n| seen.count(&n.to_string()).is_some())
            .count();
        assert_eq!(noted, 100);
    }
}
