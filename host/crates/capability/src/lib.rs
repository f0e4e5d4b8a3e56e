//! What a guest may reach, and nothing else. Denied by default: a capability works only as far as
//! the manifest asks for it and an operator has granted it. Nothing here ever traps a guest or
//! shows it a credential; a refusal is an ordinary error value with the reason.
//!
//! A capability is one module: its limits, what it asks of the [`Gate`](call::Gate), and its
//! functions for each version of the contract. It is listed once, below. CONTRIBUTING.md says how
//! to add one.

mod accounts;
mod audit;
mod breaker;
mod call;
mod context;
mod credential_echo;
mod credentials;
mod enqueue;
mod flows;
mod grants;
mod guest;
mod http;
mod job_output;
mod kv;
mod log;
mod mail;
mod meters;
mod progress;
mod schedules;
mod secrets;
mod settings;
mod sql;

use std::sync::Arc;

use patchbay_model::audit::AuditTrails;
use patchbay_model::manifest::Manifest;
use patchbay_model::sql::PluginDatabase;
use patchbay_queue::{Broker, Kv};
use patchbay_runtime::State;
use patchbay_runtime::wit::{self, Linker, Wit, v0_1, v0_2};

pub use accounts::{AccountProposal, AccountProposals, ProposedAccount};
pub use breaker::{Breaker, BreakerState, BreakerView, Breakers, Refused};
pub use call::{Call, GuestCall};
pub use credentials::{CredentialInfo, CredentialStore};
pub use grants::GrantUses;
pub use http::RelayFailure;
pub use http::egress::{
    Certificates, Egress, EgressConfig, EgressError, NoPlace, RelayAborted, RelayBody, RelayPace,
    Relayed, Relays,
};
pub use mail::{MailConfig, MailError, MailTls, MailTransport};
pub use meters::OutsideMeters;
pub use schedules::{RuntimeSchedule, RuntimeScheduleState, RuntimeSchedules};
pub use zeroize::Zeroizing;

pub use secrets::{HashKind, SecretSource, SecretValue};

use guest::{Guest, Linked};

/// Services that all calls share. Capabilities reach them through the [`Gate`](call::Gate) only.
pub struct Services {
    /// The runtime of the host's threads: guests' threads do no I/O.
    pub host: tokio::runtime::Handle,
    pub queues: Broker,
    pub kv: Kv,
    pub secrets: Arc<dyn SecretSource>,
    /// Postgres, under the plugins' own logins.
    pub sql: Arc<dyn PluginDatabase>,
    pub audit: Arc<dyn AuditTrails>,
    pub made: MadeAtRunTime,
    pub mail: MailTransport,
    pub egress: Egress,
    pub breakers: Arc<Breakers>,
    pub uses: Arc<GrantUses>,
}

/// Who keeps what plugins make at run time.
pub struct MadeAtRunTime {
    pub schedules: Arc<dyn RuntimeSchedules>,
    pub credentials: Arc<dyn CredentialStore>,
    pub accounts: Arc<dyn AccountProposals>,
}

impl Services {
    /// Calls do their I/O on the threads of the runtime that this is called on.
    pub fn new(
        queues: &Broker,
        sql: Arc<dyn PluginDatabase>,
        audit: Arc<dyn AuditTrails>,
        secrets: Arc<dyn SecretSource>,
        made: MadeAtRunTime,
        mail: MailTransport,
        egress: Egress,
    ) -> Self {
        Self {
            host: tokio::runtime::Handle::current(),
            queues: queues.clone(),
            kv: queues.kv(),
            secrets,
            sql,
            audit,
            made,
            mail,
            egress,
            breakers: Arc::default(),
            uses: Arc::default(),
        }
    }
}

/// `module: interface`, and the label in metrics and traces of host calls that reach outside, and
/// therefore take time.
macro_rules! capabilities {
    ($($module:ident: $interface:ident $(counts $call:ident as $label:literal)?;)*) => {
        /// Links the interfaces of one version of the contract: a
        /// [`patchbay_runtime::HostInterfaces`].
        pub fn link(wit: Wit, linker: &mut Linker<State>) -> wit::Result<()> {
            match wit {
                Wit::V0_1 => { $(v0_1::$interface::add_to_linker::<State, Linked>(linker, |state| Guest(state))?;)* }
                Wit::V0_2 => { $(v0_2::$interface::add_to_linker::<State, Linked>(linker, |state| Guest(state))?;)* }
            }
            Ok(())
        }

        /// Host calls that reach outside.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum HostCall { $($($call,)?)* }

        impl HostCall {
            /// In declaration order.
            const ALL: &[Self] = &[$($(Self::$call,)?)*];

            /// The name in metrics and traces.
            pub fn as_str(self) -> &'static str {
                match self { $($(Self::$call => $label,)?)* }
            }

            fn is_asked_for_by(self, manifest: &Manifest) -> bool {
                match self { $($(Self::$call => $module::is_asked_for_by(manifest),)?)* }
            }
        }

        #[cfg(test)]
        const LISTED: &[&str] = &[$(stringify!($interface)),*];
    };
}

capabilities! {
    log: log;
    progress: progress;
    settings: settings;
    secrets: secrets;
    http: http counts Http as "http";
    kv: kv counts Kv as "kv";
    enqueue: queue counts Enqueue as "enqueue";
    flows: flows counts Children as "children";
    sql: sql counts Sql as "sql";
    mail: smtp counts Mail as "mail";
    audit: audit counts Audit as "audit";
    schedules: schedules counts Schedules as "schedules";
    credentials: credentials counts Credentials as "credentials";
    accounts: accounts counts Accounts as "accounts";
}

#[cfg(test)]
mod tests;
