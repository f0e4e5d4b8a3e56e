//! The inbox: requests of vendors to webhooks of plugins, from the first byte to the jobs.
//!
//! A request is answered with success only when its row is durable. Its jobs are added beside that,
//! under ids that follow from the event, and a sweep adds those of processes that ended in between.
//! A request that cannot be judged now is kept and judged later, at its original time.

mod administration;
mod budget;
mod check;
mod counts;
mod deferred;
mod event;
mod judging;
mod lately;
mod many;
mod offline;
mod person;
mod receive;
mod seal;
mod spill;
mod standing;
mod sweep;
mod times;
mod upkeep;
mod usual;
mod view;
mod writer;

use std::sync::Arc;

use patchbay_capability::SecretSource;
use patchbay_queue::Broker;
use patchbay_store::{EventKeys, Store};
use patchbay_telemetry::metrics::histogram::Reading;
use tokio::sync::{Mutex, OnceCell};

pub(crate) use self::budget::Bodies;
use self::budget::Rates;
pub use self::budget::Reservation;
use self::counts::Counts;
use self::deferred::Deferred;
pub(crate) use self::lately::{LATELY, RejectedLately};
pub(crate) use self::person::Sought;
pub use self::receive::{Received, WebhookAnswer};
use self::seal::Seals;
pub use self::spill::drain;
pub(crate) use self::standing::Kept;
use self::standing::Standing;
pub use self::sweep::{counting, judging, sweep};
use self::times::Times;
pub use self::upkeep::upkeep;
pub(crate) use self::usual::Usual;
use self::writer::Writer;
use crate::Parts;
use crate::actions::Actions;
use crate::plugins::Plugins;
use crate::sealed_keys::SealedKeys;
use crate::snapshot::OfflineSnapshot;
use crate::vault::Vault;

/// What all requests of this process share.
pub struct InboxParts {
    store: Store,
    broker: Broker,
    plugins: Arc<Plugins>,
    secrets: Arc<dyn SecretSource>,
    vault: Arc<Vault>,
    copy: OfflineSnapshot,
    /// Set once the snapshot has its keys.
    copied: OnceCell<()>,
    seals: Arc<Seals>,
    writer: Writer,
    bodies: Bodies,
    rates: Rates,
    counts: Arc<Counts>,
    ack_times: Times,
    verify_times: Times,
    deferred: Deferred,
    standing: Standing,
    usual: Mutex<Option<usual::Learned>>,
    event_keys: OnceCell<EventKeys>,
    /// Name of this process.
    host: String,
}

impl InboxParts {
    /// Its tasks end when it is dropped.
    pub(crate) fn new(
        store: Store,
        broker: Broker,
        plugins: Arc<Plugins>,
        vault: Arc<Vault>,
        copy: OfflineSnapshot,
        host: String,
    ) -> Self {
        let sealed = SealedKeys::new(store.clone(), Arc::clone(&vault));
        let counts = Arc::<Counts>::default();
        Self {
            seals: Arc::new(Seals::new(sealed)),
            writer: Writer::start(store.clone(), broker.clone(), Arc::clone(&counts)),
            bodies: Bodies::default(),
            rates: Rates::default(),
            counts,
            ack_times: Times::default(),
            verify_times: Times::default(),
            deferred: Deferred::default(),
            standing: Standing::default(),
            usual: Mutex::default(),
            event_keys: OnceCell::new(),
            store,
            broker,
            plugins,
            secrets: Arc::clone(&vault) as _,
            vault,
            copy,
            copied: OnceCell::new(),
            host,
        }
    }
}

impl InboxParts {
    /// Plugin, webhook, outcome and code of all requests since the start of this process.
    pub(crate) fn totals(&self) -> Vec<(String, String, &'static str, String, u64)> {
        let totals = self.counts.totals().into_iter();
        totals
            .map(|(plugin, webhook, outcome, code, count)| {
                (plugin, webhook, outcome.as_str(), code, count)
            })
            .collect()
    }

    /// Webhooks of which this process has rejected requests lately.
    pub(crate) fn rejected_lately(&self) -> Vec<RejectedLately> {
        self.counts.rejected_lately()
    }

    /// Plugin, webhook, and how long its requests took until they were answered.
    pub(crate) fn ack_times(&self) -> Vec<(String, String, Reading)> {
        self.ack_times.read()
    }

    /// Plugin, webhook, and how long the plugin's `verify` took.
    pub(crate) fn verify_times(&self) -> Vec<(String, String, Reading)> {
        self.verify_times.read()
    }

    /// Bytes of bodies that this process holds.
    pub(crate) fn bytes_in_flight(&self) -> usize {
        self.bodies.in_flight()
    }
}

/// Takes requests of vendors. Cheap to clone.
#[derive(Clone)]
pub struct Inbox {
    parts: Arc<InboxParts>,
    actions: Actions,
}

impl Inbox {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            parts: Arc::clone(&parts.inbox),
            actions: parts.actions.clone(),
        }
    }
}
