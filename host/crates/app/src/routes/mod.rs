//! Routes of plugins: who may call one, what its operation is given, and what of the answer reaches
//! the client. Which route a request has is the route table's (`plugins`).

mod answer;
mod audit;
mod canonical;
mod input;
mod listing;
mod meters;
mod repeats;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use patchbay_capability::GrantUses;
use patchbay_model::capability::Fields;
use patchbay_model::job::Trace;
use patchbay_model::manifest::{Guard, Idempotency, RateBy, RouteSpec, UnavailableSpec};
use patchbay_model::operation::Caller;
use patchbay_model::request_path::InvalidPath;
use patchbay_model::role::Role;
use patchbay_runtime::Revision;
use tokio::sync::{AcquireError, Semaphore};
use uuid::Uuid;

pub use patchbay_capability::RelayBody;
pub use patchbay_queue::KeptBytes;

pub use self::answer::{RelayedContent, Reply, ReplyBody};
pub use self::audit::recorder;
use self::audit::{End, RouteAudits};
pub use self::meters::{RouteMeters, RouteReading};
use self::repeats::{Begun, Repeats};
use crate::Parts;
use crate::error::{Error, Kind};
use crate::inbox::{Bodies, Reservation};
use crate::limits::{Class, Limits};
use crate::people::{People, forbidden};
use crate::plugins::{
    Operation, PathMatch, Plugins, RelayAs, Route, RouteFailure, RouteTable, Runner,
};
use crate::vendor_keys::{Vendor, VendorKeys};

/// An operator has to look first.
const QUARANTINE_WAIT: Duration = Duration::from_secs(60);
const LOAD_WAIT: Duration = Duration::from_secs(5);
/// The role of vendors. No account has it.
const VENDOR: &str = "vendor";
/// The class of requests to routes, in headers and metrics.
const CLASS: &str = "route";
/// Calls of routes at once, for each core. Clients that wait must not take all that jobs need.
const CALLS_PER_CORE: usize = 4;
/// Longest wait for one of them.
const PLACE_WAIT: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Clone)]
pub struct Routes {
    plugins: Arc<Plugins>,
    people: People,
    vendors: VendorKeys,
    limits: Limits,
    repeats: Repeats,
    audits: RouteAudits,
    places: Arc<Semaphore>,
    meters: Arc<RouteMeters>,
    uses: Arc<GrantUses>,
    /// Bodies that this process holds for routes.
    bodies: Arc<Bodies>,
}

/// Who sends a request, as far as its head tells.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Access token of an account.
    pub token: Option<String>,
    /// Key of a vendor.
    pub key: Option<String>,
    pub address: Option<IpAddr>,
    /// Where clients are counted; `None` where that tells nobody apart.
    pub network: Option<String>,
    pub trace: Trace,
}

/// Whoever was let in.
#[derive(Debug)]
pub struct Admitted {
    /// As the operation is told.
    caller: Caller,
    /// The prefix of a vendor's key. The vendor has others before and after a rotation.
    key: Option<Arc<str>>,
}

/// What a request brings for the operation.
#[derive(Debug)]
pub struct Received {
    /// As it was sent, without `?`.
    pub query: String,
    /// Absent where the request has none, or the route takes none.
    pub body: Option<Vec<u8>>,
    /// The body's room, until the answer.
    pub room: Option<Reservation>,
    /// Only those that the route names.
    pub headers: Fields,
    pub idempotency_key: Option<String>,
    /// What the client says of content that it has already, for a relayed response.
    pub conditions: Fields,
    /// As in [`Sender`].
    pub network: Option<String>,
    pub trace: Trace,
}

/// Why a request that is let in gets no answer of the plugin.
#[derive(Debug)]
pub enum Unserved {
    /// The route declares what is answered meanwhile.
    Declared(UnavailableSpec),
    Refused(Error),
}

impl Routes {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            plugins: Arc::clone(&parts.plugins),
            people: People::new(parts),
            vendors: VendorKeys::new(parts),
            limits: parts.limits.clone(),
            repeats: Repeats::new(
                parts.broker.kept_answers(parts.kept_answers),
                parts.vault.keys().answers(),
                Arc::clone(&parts.route_meters),
            ),
            audits: RouteAudits::new(parts.broker.route_audit(), parts.operations.clone()),
            places: Arc::new(Semaphore::new(CALLS_PER_CORE * cores())),
            meters: Arc::clone(&parts.route_meters),
            uses: Arc::clone(&parts.grant_uses),
            bodies: Arc::default(),
        }
    }

    /// Room for the body of a request that was let in. `network` as in [`Sender`], for visitors.
    pub fn room(&self, admitted: &Admitted, network: Option<&str>) -> Reservation {
        let client = client(&admitted.caller);
        self.bodies.reservation(client.as_deref().or(network))
    }

    /// Counts a request to a route, whatever it was answered.
    pub fn count(&self, route: &Route, status: u16, took: Duration) {
        self.meters.count(route, status, took);
    }

    /// The routes as they are now. The same table until something changes.
    pub fn table(&self) -> Arc<RouteTable> {
        self.plugins.route_table()
    }

    /// The routes of a path, as it was sent.
    pub fn find(&self, path: &str) -> Result<Option<PathMatch>, InvalidPath> {
        self.plugins.route_table().find(path)
    }

    /// Lets a request in: who sends it, whether that one may, and how often. Before anything is
    /// said about the plugin, so that outsiders learn nothing.
    pub async fn admit(&self, route: &Route, sender: &Sender) -> Result<Admitted, Error> {
        let spec = &route.spec;
        let mut key = None;
        let caller = match spec.guard() {
            Guard::Public => Caller::default(),
            Guard::AnyUser => self.account(sender, |_| true).await?,
            Guard::Roles(roles) => {
                let allowed = |role: Option<Role>| {
                    role.is_some_and(|role| role == Role::Admin || roles.contains(&role))
                };
                self.account(sender, allowed).await?
            }
            Guard::Vendor(scope) => {
                let vendor = self.vendor(route, sender, scope).await?;
                key = Some(vendor.prefix);
                Caller {
                    user_id: Some(vendor.id.to_string()),
                    role: Some(VENDOR.into()),
                    ..Caller::default()
                }
            }
        };
        let counted = key.as_deref().or(caller.user_id.as_deref());
        self.take(route, sender, counted).await?;
        let caller = Caller {
            platform: sender.trace.platform.clone().unwrap_or_default(),
            ip: sender.address.map(|address| address.to_string()),
            correlation_id: sender.trace.correlation_id.clone().unwrap_or_default(),
            ..caller
        };
        Ok(Admitted { caller, key })
    }

    async fn account(
        &self,
        sender: &Sender,
        is_allowed: impl FnOnce(Option<Role>) -> bool,
    ) -> Result<Caller, Error> {
        let principal = self.people.authenticate(sender.token.as_deref()).await?;
        if !is_allowed(principal.role) {
            return Err(forbidden("forbidden", "Access denied"));
        }
        Ok(Caller {
            user_id: Some(principal.user.id.clone()),
            email: Some(principal.user.email.clone()),
            role: principal.role.map(|role| role.as_str().to_owned()),
            ..Caller::default()
        })
    }

    async fn vendor(&self, route: &Route, sender: &Sender, scope: &str) -> Result<Vendor, Error> {
        let used = format!("{} {}", route.spec.method.as_str(), route.spec.path);
        let key = sender.key.as_deref();
        let vendor = self
            .vendors
            .authenticate(key, sender.network.as_deref(), &used);
        let vendor = vendor.await?;
        self.vendors.require_scope(&vendor, scope)?;
        Ok(vendor)
    }

    /// Without Redis, this host counts alone.
    async fn take(&self, route: &Route, sender: &Sender, id: Option<&str>) -> Result<(), Error> {
        let rate = route.spec.rate();
        let who = match rate.by {
            RateBy::User | RateBy::Key => id.unwrap_or_default(),
            RateBy::All => "",
            RateBy::Address => match &sender.network {
                Some(network) => network,
                None => return Ok(()),
            },
        };
        let class = Class {
            name: CLASS,
            what: "requests to this route",
            count: rate.max,
            window: Duration::from_millis(rate.per_ms),
        };
        let key = format!("{} {} {who}", route.name(), rate.by.as_str());
        let taken = self.limits.take_here_without_redis(&class, &key);
        taken.await.map(drop)
    }

    /// The revision that answers, or what is answered instead.
    pub fn runner(route: &Route) -> Result<&Arc<Revision>, Unserved> {
        let (code, wait) = match &route.runner {
            Runner::Revision(revision) => return Ok(revision),
            Runner::Quarantined(_) => ("quarantined", QUARANTINE_WAIT),
            Runner::NotLoaded(_) | Runner::Deactivated(_) => ("unavailable", LOAD_WAIT),
        };
        Err(match &route.spec.when_unavailable {
            Some(answer) => Unserved::Declared(answer.clone()),
            None => {
                let message = "This route is not available now. Try again later";
                let error = Error::new(Kind::Unavailable, code, message);
                Unserved::Refused(error.retry_after(wait))
            }
        })
    }

    /// Calls the operation of a route for a request that was let in, and checks the answer.
    pub async fn call(
        &self,
        route: &Route,
        values: &[String],
        admitted: Admitted,
        received: Received,
    ) -> Result<Reply, Unserved> {
        let Admitted { caller, key } = admitted;
        let revision = Self::runner(route)?;
        let spec: &RouteSpec = &route.spec;
        let refused = Unserved::Refused;
        let _room = received.room;
        let input = input::of(route, values, &received.query, received.body).map_err(refused)?;
        let given = received.idempotency_key;
        let keeps = spec.idempotency();
        if keeps == Idempotency::Required && given.is_none() {
            let message = "This route needs the header Idempotency-Key: a new one for each new request, and the same one when it is sent again";
            return Err(refused(Error::new(
                Kind::Invalid,
                "idempotency-key-required",
                message,
            )));
        }
        let claim = match &given {
            Some(key) if keeps != Idempotency::None => {
                let begun = self
                    .repeats
                    .begin(route, &caller, key, &input.text, &received.headers)
                    .await;
                match begun.map_err(refused)? {
                    Begun::First(claim) => Some(claim),
                    Begun::Again(answer) => return answer.map_err(refused),
                }
            }
            _ => None,
        };
        // The route's own first: calls of a slow one must not wait in the places of others.
        let places = async {
            let own = match &route.places {
                Some(places) => Some(places.acquire().await?),
                None => None,
            };
            Ok::<_, AcquireError>((own, self.places.acquire().await?))
        };
        let Ok(Ok(place)) = tokio::time::timeout(PLACE_WAIT, places).await else {
            if let Some(claim) = claim {
                claim.give_up().await;
            }
            let is_own = |places: &Semaphore| places.available_permits() == 0;
            return Err(refused(busy(route.places.as_deref().is_some_and(is_own))));
        };
        let caller = Caller {
            idempotency_key: given.unwrap_or_else(|| Uuid::now_v7().simple().to_string()),
            ..caller
        };
        let operation = Operation {
            name: spec.operation.clone(),
            input: input.text.clone(),
            headers: received.headers,
            caller: caller.clone(),
            deadline: Some(Duration::from_millis(spec.deadline_ms)),
            relay: RelayAs::Pieces {
                conditions: received.conditions,
                client: client(&caller).or(received.network),
            },
        };
        self.uses.count(&route.plugin, route.ask.clone());
        let traceparent = received.trace.traceparent;
        let called = self.plugins.call_route(revision, operation, traceparent);
        let answer = match called.await {
            Ok(answer) => answer::checked(route, answer).map_err(|error| RouteFailure {
                error,
                is_final: false,
                is_refused_by_breaker: false,
            }),
            Err(failure) => Err(failure),
        };
        drop(place);
        let end = match &answer {
            Ok(reply) => End::Status(reply.status),
            Err(failure) => End::Code(&failure.error.code),
        };
        let told = self
            .audits
            .record(route, &caller, key.as_deref(), end, |path| {
                input.value(path)
            });
        let settled = async {
            if let Some(claim) = claim {
                claim.settle(&answer).await;
            }
        };
        tokio::join!(told, settled);
        answer.map_err(|failure| match &spec.when_unavailable {
            Some(declared) if failure.is_refused_by_breaker => Unserved::Declared(declared.clone()),
            _ => refused(failure.error),
        })
    }
}

/// Who gets an answer: an account, or a vendor. Visitors are told apart by their network.
fn client(caller: &Caller) -> Option<String> {
    let id = caller.user_id.as_deref()?;
    let kind = match caller.role.as_deref() {
        Some(VENDOR) => "vendor",
        _ => "account",
    };
    Some(format!("{kind} {id}"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// `of_route`: its own places are taken.
fn busy(of_route: bool) -> Error {
    let message = match of_route {
        true => "This route answers as many requests at once as it may. Try again",
        false => "This host answers as many requests to plugins as it can. Try again",
    };
    Error::new(Kind::Unavailable, "busy", message).retry_after(Duration::from_secs(1))
}
