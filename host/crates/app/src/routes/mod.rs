//! Routes of plugins: who may call one, what its operation is given, and what of the answer reaches
//! the client. Which route a request has is the route table's (`plugins`).

mod answer;
mod input;
mod listing;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use patchbay_model::capability::Fields;
use patchbay_model::job::Trace;
use patchbay_model::manifest::{Guard, RateBy, RouteSpec, UnavailableSpec};
use patchbay_model::operation::Caller;
use patchbay_model::request_path::InvalidPath;
use patchbay_model::role::Role;
use patchbay_runtime::Revision;
use uuid::Uuid;

pub use self::answer::{Reply, ReplyBody};
use crate::Parts;
use crate::error::{Error, Kind};
use crate::limits::{Class, Limits};
use crate::people::{People, forbidden};
use crate::plugins::{Operation, PathMatch, Plugins, Route, RouteTable, Runner};
use crate::vendor_keys::VendorKeys;

/// An operator has to look first.
const QUARANTINE_WAIT: Duration = Duration::from_secs(60);
const LOAD_WAIT: Duration = Duration::from_secs(5);
/// The class of requests to routes, in headers and metrics.
const CLASS: &str = "route";

/// Cheap to clone.
#[derive(Clone)]
pub struct Routes {
    plugins: Arc<Plugins>,
    people: People,
    vendors: VendorKeys,
    limits: Limits,
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

/// What a request brings for the operation.
#[derive(Debug)]
pub struct Received {
    /// As it was sent, without `?`.
    pub query: String,
    /// Absent where the request has none, or the route takes none.
    pub body: Option<Vec<u8>>,
    /// Only those that the route names.
    pub headers: Fields,
    pub idempotency_key: Option<String>,
    pub range: Option<Vec<u8>>,
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
        }
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
    pub async fn admit(&self, route: &Route, sender: &Sender) -> Result<Caller, Error> {
        let spec = &route.spec;
        let caller = match spec.guard() {
            Guard::Public => Caller::default(),
            Guard::AnyUser => self.account(sender, |_| true).await?,
            Guard::Roles(roles) => {
                let allowed = |role: Option<Role>| {
                    role.is_some_and(|role| role == Role::Admin || roles.contains(&role))
                };
                self.account(sender, allowed).await?
            }
            Guard::Vendor(scope) => self.vendor(route, sender, scope).await?,
        };
        self.take(route, sender, caller.user_id.as_deref()).await?;
        Ok(Caller {
            platform: sender.trace.platform.clone().unwrap_or_default(),
            ip: sender.address.map(|address| address.to_string()),
            correlation_id: sender.trace.correlation_id.clone().unwrap_or_default(),
            ..caller
        })
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

    /// A vendor is told to the plugin by the prefix of its key.
    async fn vendor(&self, route: &Route, sender: &Sender, scope: &str) -> Result<Caller, Error> {
        let used = format!("{} {}", route.spec.method.as_str(), route.spec.path);
        let key = sender.key.as_deref();
        let vendor = self
            .vendors
            .authenticate(key, sender.network.as_deref(), &used);
        let vendor = vendor.await?;
        self.vendors.require_scope(&vendor, scope)?;
        Ok(Caller {
            user_id: Some(vendor.prefix.to_string()),
            role: Some("vendor".into()),
            ..Caller::default()
        })
    }

    /// Without Redis, requests pass.
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
        self.limits.take_if_possible(&class, &key).await.map(|_| ())
    }

    /// The revision that answers, or what is answered instead.
    pub fn runner(route: &Route) -> Result<&Arc<Revision>, Unserved> {
        let (code, wait) = match &route.runner {
            Runner::Revision(revision) => return Ok(revision),
            Runner::Quarantined(_) => ("quarantined", QUARANTINE_WAIT),
            Runner::NotLoaded(_) => ("unavailable", LOAD_WAIT),
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
        caller: Caller,
        received: Received,
    ) -> Result<Reply, Unserved> {
        let revision = Self::runner(route)?;
        let answered = async {
            let spec: &RouteSpec = &route.spec;
            let input = input::of(route, values, &received.query, received.body)?;
            let operation = Operation {
                name: spec.operation.clone(),
                input,
                headers: received.headers,
                caller: Caller {
                    idempotency_key: received
                        .idempotency_key
                        .unwrap_or_else(|| Uuid::now_v7().simple().to_string()),
                    ..caller
                },
                deadline: Some(Duration::from_millis(spec.deadline_ms)),
                range: received.range,
            };
            let answer = self.plugins.call_route(revision, operation).await?;
            answer::checked(route, answer)
        };
        answered.await.map_err(Unserved::Refused)
    }
}
