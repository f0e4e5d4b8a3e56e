//! The route table: which route of which plugin gets a request. It is built as a whole from what
//! runs here, and replaced at once, so that no reader sees part of a change. A route holds the
//! revision that answers: a request ends on the revision on which it began.

use std::sync::Arc;

use patchbay_model::grant::{Ask, Granted};
use patchbay_model::json_schema::Schema;
use patchbay_model::manifest::{Guard, HttpMethod, Manifest, Overlap, RouteSpec, WebhookSpec};
use patchbay_model::request_path::{InvalidPath, RequestPath};
use patchbay_model::route_tree::RouteTree;
use patchbay_model::{PluginName, RevisionDigest};
use tokio::sync::Semaphore;
use tracing::error;

use super::Runner;

/// The routes of all active plugins of this process.
#[derive(Default)]
pub struct RouteTable {
    /// What it was built from, in the order of activation.
    sources: Vec<Source>,
    /// Ordered by plugin, then as in the manifest.
    routes: Vec<Arc<Route>>,
    /// Likewise: those that are not served, because nobody has granted them.
    ungranted: Vec<Ungranted>,
    /// Likewise.
    webhooks: Vec<Arc<Webhook>>,
    tree: RouteTree<Arc<Served>>,
}

/// The routes and webhooks of one path. They have different methods.
#[derive(Default)]
struct Served {
    routes: Vec<Arc<Route>>,
    webhooks: Vec<Arc<Webhook>>,
}

/// A plugin whose routes are to be served.
#[derive(Clone)]
pub(super) struct Source {
    pub digest: RevisionDigest,
    pub manifest: Arc<Manifest>,
    pub runner: Runner,
    /// Its routes without their grant are not served.
    pub granted: Granted,
}

/// A route of a plugin, with what answers its requests.
pub struct Route {
    pub plugin: PluginName,
    pub digest: RevisionDigest,
    pub spec: RouteSpec,
    pub runner: Runner,
    pub schemas: Arc<Schemas>,
    /// The grant by which it is served.
    pub ask: Ask,
    /// For calls at once, where it has a limit of its own.
    pub places: Option<Arc<Semaphore>>,
}

/// A route that an active plugin declares and nobody has granted, or whose grant was revoked.
#[derive(Clone)]
pub struct Ungranted {
    pub plugin: PluginName,
    pub digest: RevisionDigest,
    pub spec: RouteSpec,
    pub ask: Ask,
}

impl Ungranted {
    /// As of a route that is served.
    pub fn name(&self) -> String {
        format!("{}.{}", self.plugin, self.spec.id())
    }
}

/// A webhook of a plugin, with what judges its requests.
pub struct Webhook {
    pub plugin: PluginName,
    pub digest: RevisionDigest,
    pub spec: WebhookSpec,
    pub runner: Runner,
}

impl Webhook {
    /// Its name on this host: `crm.status`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.plugin, self.spec.name)
    }
}

/// The compiled schemas of a route.
#[derive(Debug)]
pub struct Schemas {
    pub input: Option<Schema>,
    pub output: Option<Schema>,
}

/// The routes and webhooks of the path that a request has.
#[derive(Clone)]
pub struct PathMatch {
    served: Arc<Served>,
    /// What the parameters are, from left to right.
    values: Vec<String>,
}

impl Route {
    /// Its name on this host: `crm.call-lead`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.plugin, self.spec.id())
    }

    /// Whether accounts, or visitors, call it from pages.
    pub fn is_for_users(&self) -> bool {
        !matches!(self.spec.guard(), Guard::Vendor(_))
    }
}

impl PathMatch {
    /// The route of a method. HEAD is answered as GET.
    pub fn route(&self, method: &str) -> Option<&Arc<Route>> {
        let method = if method == "HEAD" { "GET" } else { method };
        let mut routes = self.served.routes.iter();
        routes.find(|route| route.spec.method.as_str() == method)
    }

    /// The webhook of a method.
    pub fn webhook(&self, method: &str) -> Option<&Arc<Webhook>> {
        let takes = |webhook: &&Arc<Webhook>| {
            let mut methods = webhook.spec.method_names();
            methods.any(|taken| taken == method)
        };
        self.served.webhooks.iter().find(takes)
    }

    /// The value of the header `Allow`.
    pub fn allow(&self) -> String {
        let mut methods: Vec<&str> = self
            .served
            .routes
            .iter()
            .map(|route| route.spec.method.as_str())
            .collect();
        if methods.contains(&HttpMethod::Get.as_str()) {
            methods.push("HEAD");
        }
        let webhooks = self.served.webhooks.iter();
        methods.extend(webhooks.flat_map(|webhook| webhook.spec.method_names()));
        methods.push("OPTIONS");
        methods.join(", ")
    }

    /// The path as the manifest has it.
    pub fn template(&self) -> &str {
        let route = self.served.routes.first();
        let route = route.map(|route| route.spec.path.as_str());
        let webhook = self.served.webhooks.first();
        route
            .or(webhook.map(|webhook| webhook.spec.path.as_str()))
            .unwrap_or_default()
    }

    /// What the parameters are, from left to right.
    pub fn values(&self) -> &[String] {
        &self.values
    }
}

impl RouteTable {
    /// Builds the table from plugins in the order of their activation, oldest first. `None` when
    /// `previous` is the same. Two that overlap cannot both become active; but where Postgres was
    /// changed by hand, or a newer host reserves a path, the later one gets no requests. Returns
    /// those plugins with the reason.
    pub(super) fn build(
        previous: &Self,
        sources: Vec<Source>,
    ) -> Option<(Self, Vec<(PluginName, Overlap)>)> {
        if sources.len() == previous.sources.len()
            && sources
                .iter()
                .zip(&previous.sources)
                .all(|(a, b)| a.is_same_as(b))
        {
            return None;
        }
        let (mut served, mut left_out): (Vec<&Source>, _) = (Vec::new(), Vec::new());
        let (stopped, others): (Vec<&Source>, Vec<&Source>) = sources
            .iter()
            .filter(|source| source.manifest.endpoints().next().is_some())
            .partition(|source| source.is_deactivated());
        for source in others {
            let manifest = &source.manifest;
            let with_others = || {
                served
                    .iter()
                    .find_map(|other| manifest.overlap_with(&other.manifest))
            };
            match manifest.overlap_with_host().or_else(with_others) {
                Some(overlap) => left_out.push((manifest.name.clone(), overlap)),
                None => served.push(source),
            }
        }
        let mut webhooks: Vec<Arc<Webhook>> =
            served.iter().flat_map(|source| source.webhooks()).collect();
        // A path goes to whoever is active on it, then to whoever was stopped last.
        for source in stopped {
            let is_free = |webhook: &Arc<Webhook>| {
                let path = &webhook.spec.path;
                let mut of_active = served.iter().flat_map(|other| other.manifest.endpoints());
                path.overlap_with_host().is_none()
                    && !of_active.any(|endpoint| endpoint.path.overlaps(path))
                    && !webhooks.iter().any(|other| other.spec.path.overlaps(path))
            };
            let free: Vec<Arc<Webhook>> = source.webhooks().filter(is_free).collect();
            webhooks.extend(free);
        }
        // The order within a plugin stays.
        webhooks.sort_by(|a, b| a.plugin.cmp(&b.plugin));
        served.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
        let routes: Vec<Arc<Route>> = served
            .iter()
            .flat_map(|source| source.routes(previous))
            .collect();
        let ungranted = served.iter().flat_map(|source| source.ungranted());
        let ungranted = ungranted.collect();
        let mut tree = RouteTree::default();
        for route in &routes {
            let place: &mut Option<Served> = tree.entry(&route.spec.path);
            place.get_or_insert_default().routes.push(Arc::clone(route));
        }
        for webhook in &webhooks {
            let place = tree.entry(&webhook.spec.path).get_or_insert_default();
            place.webhooks.push(Arc::clone(webhook));
        }
        let table = Self {
            sources,
            routes,
            ungranted,
            webhooks,
            tree: tree.map(Arc::new),
        };
        Some((table, left_out))
    }

    /// Every route, by plugin and then as in its manifest.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Every route that is not served because it is not granted, by plugin and then as in its manifest.
    pub fn ungranted(&self) -> &[Ungranted] {
        &self.ungranted
    }

    /// Every webhook, by plugin and then as in its manifest.
    pub fn webhooks(&self) -> &[Arc<Webhook>] {
        &self.webhooks
    }

    /// What serves the path that a request has. Without any routes and webhooks, no path is judged.
    pub fn find(&self, path: &str) -> Result<Option<PathMatch>, InvalidPath> {
        if self.routes.is_empty() && self.webhooks.is_empty() {
            return Ok(None);
        }
        let Some(path) = RequestPath::parse(path)? else {
            return Ok(None);
        };
        Ok(self.tree.find(&path).map(|(served, values)| PathMatch {
            served: Arc::clone(served),
            values: values.into_iter().map(str::to_owned).collect(),
        }))
    }

    /// The manifest of a revision that the table was built from.
    pub(super) fn manifest(&self, digest: &RevisionDigest) -> Option<&Arc<Manifest>> {
        let mut sources = self.sources.iter();
        let source = sources.find(|source| source.digest == *digest)?;
        Some(&source.manifest)
    }
}

impl Source {
    fn is_same_as(&self, other: &Self) -> bool {
        self.digest == other.digest
            && self.runner.is_same_as(&other.runner)
            && self.served().eq(other.served())
    }

    fn is_deactivated(&self) -> bool {
        matches!(self.runner, Runner::Deactivated(_))
    }

    /// Routes that are granted.
    fn served(&self) -> impl Iterator<Item = &RouteSpec> {
        let routes = self.manifest.routes.iter();
        routes.filter(|route| self.granted.contains(&Ask::route(route)))
    }

    fn ungranted(&self) -> impl Iterator<Item = Ungranted> {
        let routes = self.manifest.routes.iter();
        routes.filter_map(|spec| {
            let ask = Ask::route(spec);
            (!self.granted.contains(&ask)).then(|| Ungranted {
                plugin: self.manifest.name.clone(),
                digest: self.digest,
                spec: spec.clone(),
                ask,
            })
        })
    }

    /// They need no grant: whoever activates the plugin wants them.
    fn webhooks(&self) -> impl Iterator<Item = Arc<Webhook>> {
        let webhook = |spec: &WebhookSpec| {
            Arc::new(Webhook {
                plugin: self.manifest.name.clone(),
                digest: self.digest,
                spec: spec.clone(),
                runner: self.runner.clone(),
            })
        };
        self.manifest.webhooks.iter().map(webhook)
    }

    /// Only schemas that `previous` does not have are compiled.
    fn routes(&self, previous: &RouteTable) -> Vec<Arc<Route>> {
        let known = |spec: &RouteSpec| {
            let mut routes = previous.routes.iter();
            routes.find(|route| route.digest == self.digest && route.spec.id() == spec.id())
        };
        let route = |spec: &RouteSpec| {
            let known = known(spec);
            let schemas = match known {
                Some(known) => Ok(Arc::clone(&known.schemas)),
                None => Schemas::of(spec).map(Arc::new),
            };
            // Calls that go on keep their places.
            let places = match (known, spec.max_concurrency) {
                (Some(known), _) => known.places.clone(),
                (None, most) => most.map(|most| Arc::new(Semaphore::new(most as usize))),
            };
            match schemas {
                Ok(schemas) => Some(Arc::new(Route {
                    plugin: self.manifest.name.clone(),
                    digest: self.digest,
                    spec: spec.clone(),
                    runner: self.runner.clone(),
                    ask: Ask::route(spec),
                    places,
                    schemas,
                })),
                Err(reason) => {
                    error!(plugin = %self.manifest.name, route = spec.id(), reason, "the route is not served: its schema cannot be used");
                    None
                }
            }
        };
        self.served().filter_map(route).collect()
    }
}

impl Schemas {
    fn of(spec: &RouteSpec) -> Result<Self, String> {
        Ok(Self {
            input: spec.input.as_ref().map(Schema::new).transpose()?,
            output: spec.output.as_ref().map(Schema::new).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests;
