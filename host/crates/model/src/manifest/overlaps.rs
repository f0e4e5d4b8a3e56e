//! Conflicts of routes and webhooks: within a manifest, between plugins, and with the host.

use std::fmt;

use super::{HttpMethod, Manifest, ManifestError, RoutePath, invalid};
use crate::id::PluginName;

/// What a route or webhook says about the requests that it takes.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    pub methods: &'a [HttpMethod],
    /// A webhook that a vendor may try with HEAD. Routes with GET take HEAD, too.
    takes_head: bool,
    pub path: &'a RoutePath,
    /// `routes` or `webhooks`, and the index in that list.
    place: (&'static str, usize),
}

/// An endpoint of a plugin that overlaps with one of another owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    plugin: PluginName,
    endpoint: String,
    other: String,
    other_owner: Owner,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    Host,
    Plugin(PluginName),
}

impl Overlap {
    /// Adds the state of the other plugin, such as `active, revision 3f2a…`.
    pub fn with_standing<'a>(&'a self, standing: &'a str) -> impl fmt::Display + 'a {
        let Self {
            plugin,
            endpoint,
            other,
            other_owner,
        } = self;
        fmt::from_fn(move |f| match other_owner {
            Owner::Host => write!(
                f,
                "{endpoint} of {plugin} overlaps {other} of the host. Choose another path"
            ),
            Owner::Plugin(owner) => write!(
                f,
                "{endpoint} of {plugin} overlaps {other} of {owner} ({standing}). Change one of them, or deactivate \
                 {owner}: patchbay plugin deactivate {owner}"
            ),
        })
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_standing("active").fmt(f)
    }
}

impl fmt::Display for Endpoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut methods: Vec<&str> = self.methods.iter().map(|method| method.as_str()).collect();
        methods.extend(self.takes_head.then_some("HEAD"));
        write!(f, "{} {}", methods.join(","), self.path)
    }
}

impl Endpoint<'_> {
    /// `route:` or `webhook:`
    pub fn label(&self) -> &'static str {
        if self.place.0 == "routes" {
            "route:"
        } else {
            "webhook:"
        }
    }

    fn key(&self, field: &str) -> String {
        format!("{}[{}]{field}", self.place.0, self.place.1)
    }

    /// Within one plugin, literals may overlap parameters, and webhooks routes with other methods.
    fn clashes(&self, other: &Self) -> bool {
        let shares_method = self
            .methods
            .iter()
            .any(|method| other.methods.contains(method));
        let shares_head = (self.takes_head && other.methods.contains(&HttpMethod::Get))
            || (other.takes_head && self.methods.contains(&HttpMethod::Get));
        let both_webhooks = self.place.0 == other.place.0 && self.place.0 == "webhooks";
        self.path.is_same_as(other.path) && (shares_method || shares_head || both_webhooks)
    }
}

impl Manifest {
    /// Routes first, then webhooks.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint<'_>> {
        let routes = self.routes.iter().enumerate().map(|(i, route)| Endpoint {
            methods: std::slice::from_ref(&route.method),
            takes_head: false,
            path: &route.path,
            place: ("routes", i),
        });
        let webhooks = self
            .webhooks
            .iter()
            .enumerate()
            .map(|(i, webhook)| Endpoint {
                methods: &webhook.methods,
                takes_head: webhook.takes_head(),
                path: &webhook.path,
                place: ("webhooks", i),
            });
        routes.chain(webhooks)
    }

    /// The first endpoint that would take requests for a path of the host.
    pub fn overlap_with_host(&self) -> Option<Overlap> {
        self.keyed_overlap_with_host().map(|(_, overlap)| overlap)
    }

    pub(super) fn keyed_overlap_with_host(&self) -> Option<(String, Overlap)> {
        self.endpoints().find_map(|endpoint| {
            let other = endpoint.path.overlap_with_host()?;
            Some((
                endpoint.key(".path"),
                self.overlap(&endpoint, other, Owner::Host),
            ))
        })
    }

    /// The first endpoint that would take requests of the other plugin. Methods do not matter: a
    /// path has one owner, so that there is one answer to a method that it does not take.
    pub fn overlap_with(&self, other: &Self) -> Option<Overlap> {
        self.endpoints().find_map(|endpoint| {
            let met = other
                .endpoints()
                .find(|theirs| endpoint.path.overlaps(theirs.path))?;
            Some(self.overlap(
                &endpoint,
                met.to_string(),
                Owner::Plugin(other.name.clone()),
            ))
        })
    }

    fn overlap(&self, endpoint: &Endpoint<'_>, other: String, other_owner: Owner) -> Overlap {
        Overlap {
            plugin: self.name.clone(),
            endpoint: endpoint.to_string(),
            other,
            other_owner,
        }
    }

    pub(super) fn check_endpoints(&self) -> Result<(), ManifestError> {
        let endpoints: Vec<Endpoint<'_>> = self.endpoints().collect();
        for (i, endpoint) in endpoints.iter().enumerate() {
            if let Some(earlier) = endpoints[..i]
                .iter()
                .find(|earlier| endpoint.clashes(earlier))
            {
                let reason = format!(
                    "{endpoint} is the same as {earlier} of {}: leave one out",
                    earlier.key("")
                );
                return Err(invalid(endpoint.key(""), reason));
            }
        }
        Ok(())
    }
}
