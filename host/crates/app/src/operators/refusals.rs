//! Refused attempts, as entries of the trail `operators`: a few a minute of each actor, and then
//! counted. They are noted beside the answer, and never change it.
//!
//! Attempts of nobody in particular count by network, and are also limited together: many networks
//! must not fill the trail. That limit never holds for attempts under a name, so that nobody can
//! hide what an operator tries behind a flood of wrong passwords.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
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
/// Of all attempts without a name together.
const OF_ALL: u32 = 100;
/// Networks that are told apart.
const MOST_NETWORKS: usize = 10_000;
/// The actor where not even the address is known.
const UNKNOWN: &str = "unknown";
/// The actor of an entry that counts attempts of many networks.
const MANY_NETWORKS: &str = "many networks";

/// An attempt that was refused.
#[derive(Debug, Clone)]
pub struct Refused {
    kind: ActorKind,
    /// Who it was, for the entry: a name, or an address.
    actor: String,
    /// Whose attempts count together.
    by: Source,
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
            actor: address.map_or_else(|| UNKNOWN.to_owned(), |address| address.to_string()),
            by: Source::of(address),
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
            by: Source::Named(who.name.to_string()),
            action: "operator.refused",
            operation: Some(operation),
            code: Some(code.to_owned()),
            address,
        }
    }
}

/// Whose attempts count together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Source {
    /// Somebody who has logged in, or a token. There are as many as operators.
    Named(String),
    /// An address of IPv4, or the /64 network of one of IPv6. `None`: unknown.
    Network(Option<IpAddr>),
}

impl Source {
    fn of(address: Option<IpAddr>) -> Self {
        Self::Network(address.map(|address| match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(whole) => match whole.to_ipv4_mapped() {
                Some(mapped) => mapped.into(),
                None => Ipv6Addr::from_bits(whole.to_bits() & !u128::from(u64::MAX)).into(),
            },
        }))
    }

    fn actor(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::Network(Some(address @ IpAddr::V6(_))) => format!("{address}/64"),
            Self::Network(Some(address)) => address.to_string(),
            Self::Network(None) => UNKNOWN.to_owned(),
        }
    }

    fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Named(_) => None,
            Self::Network(address) => *address,
        }
    }
}

pub(super) struct Refusals {
    store: Store,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    sources: HashMap<Source, Window>,
    /// Of attempts without a name.
    all: Option<Window>,
    /// Attempts that only the limit for all has left out, and that no entry tells of yet.
    dropped: u32,
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
    fn count(&mut self, by: &Source) -> Option<u32> {
        let is_named = matches!(by, Source::Named(_));
        let known = self.sources.get(by).copied();
        if !is_named && known.is_none() {
            if self.sources.len() >= MOST_NETWORKS {
                self.forget_what_is_over();
            }
            if self.sources.len() >= MOST_NETWORKS {
                self.dropped = self.dropped.saturating_add(1);
                return None;
            }
        }
        let (own, is_among, left_out) = Window::count(known, OF_ONE_ACTOR);
        self.sources.insert(by.clone(), own);
        if !is_among {
            return None;
        }
        if is_named {
            return Some(left_out);
        }
        let (all, is_among, _) = Window::count(self.all, OF_ALL);
        self.all = Some(all);
        if !is_among {
            self.dropped = self.dropped.saturating_add(1).saturating_add(left_out);
        }
        is_among.then_some(left_out)
    }

    /// Makes room for others. What was left out of those that go is counted.
    fn forget_what_is_over(&mut self) {
        let mut left_out = 0_u32;
        self.sources.retain(|_, window| {
            let is_over = window.began.elapsed() >= WINDOW;
            if is_over {
                left_out = left_out.saturating_add(window.count.saturating_sub(OF_ONE_ACTOR));
            }
            !is_over
        });
        self.dropped = self.dropped.saturating_add(left_out);
    }

    /// Those whose minute is over, with how many of it were not noted.
    fn take_left_out(&mut self) -> Vec<(Source, u32)> {
        let over: Vec<(Source, u32)> = self
            .sources
            .iter()
            .filter(|(_, window)| window.began.elapsed() >= WINDOW)
            .map(|(by, window)| (by.clone(), window.count.saturating_sub(OF_ONE_ACTOR)))
            .collect();
        for (by, _) in &over {
            self.sources.remove(by);
        }
        over.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    fn take_dropped(&mut self) -> u32 {
        std::mem::take(&mut self.dropped)
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
        let Some(left_out) = self.seen.lock().count(&refused.by) else {
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
        let (left_out, dropped) = {
            let mut seen = self.seen.lock();
            (seen.take_left_out(), seen.take_dropped())
        };
        let more = |by: Source, actor: String| Refused {
            kind: match by {
                Source::Named(_) => ActorKind::Operator,
                Source::Network(_) => ActorKind::Anonymous,
            },
            address: by.address(),
            actor,
            by,
            action: "operator.refused-more",
            operation: None,
            code: None,
        };
        for (by, count) in left_out {
            let actor = by.actor();
            append(&self.store, &more(by, actor), &json!({ "count": count })).await;
        }
        if dropped > 0 {
            let of_many = more(Source::Network(None), MANY_NETWORKS.to_owned());
            append(&self.store, &of_many, &json!({ "count": dropped })).await;
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

    fn named(name: &str) -> Source {
        Source::Named(name.to_owned())
    }

    fn network(address: &str) -> Source {
        Source::of(Some(address.parse().expect("an address")))
    }

    #[test]
    fn some_attempts_of_an_actor_are_noted_and_the_others_counted() {
        let mut seen = Seen::default();
        let ada = named("ada");
        let noted = (0..25).filter(|_| seen.count(&ada).is_some()).count();
        assert_eq!(noted, 10);
        assert!(seen.count(&named("bob")).is_some(), "another actor");
        let minute_ago = Instant::now().checked_sub(WINDOW).expect("a time");
        for window in seen.sources.values_mut() {
            window.began = minute_ago;
        }
        assert_eq!(seen.count(&ada), Some(15), "what was left out");
        assert!(seen.take_left_out().is_empty(), "bob's are all noted");
    }

    #[test]
    fn a_flood_without_a_name_is_bounded_and_counted_and_hides_nobody_with_a_name() {
        let mut seen = Seen::default();
        let flood = (0..1_000).map(|n| network(&format!("2001:db8:0:{n:x}::1")));
        let noted = flood.filter(|by| seen.count(by).is_some()).count();
        assert_eq!(noted, 100);
        assert_eq!(seen.count(&named("vera")), Some(0));
        assert_eq!((seen.take_dropped(), seen.take_dropped()), (900, 0));
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_are_one_actor() {
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("2001:db8::1").actor(), "2001:db8::/64");
    }
}
