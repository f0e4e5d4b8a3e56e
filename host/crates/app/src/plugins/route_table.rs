//! The route table: which active plugin gets a request. It is built as a whole from the revisions
//! that run here and replaced at once, so that no reader sees part of a change. Nothing serves it
//! yet.

use std::sync::Arc;

use patchbay_model::manifest::{HttpMethod, Manifest, Overlap, RouteSpec, WebhookSpec};
use patchbay_model::{PluginName, RevisionDigest};

/// The routes and webhooks of all active plugins of this process.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Ordered by plugin.
    owners: Vec<Owner>,
}

#[derive(Debug)]
struct Owner {
    digest: RevisionDigest,
    manifest: Arc<Manifest>,
}

/// What takes the requests of one path.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    Route(&'a RouteSpec),
    /// The plugin verifies the request, and it becomes jobs.
    Webhook(&'a WebhookSpec),
}

impl Target<'_> {
    pub fn methods(&self) -> &[HttpMethod] {
        match self {
            Self::Route(route) => std::slice::from_ref(&route.method),
            Self::Webhook(webhook) => &webhook.methods,
        }
    }
}

impl RouteTable {
    /// Builds the table from revisions in the order of their activation, oldest first. Two that
    /// overlap cannot both become active; but where Postgres was changed by hand, or a newer host
    /// reserves a path, the later one gets no requests. Returns those plugins with the reason.
    pub(super) fn build(
        active: impl IntoIterator<Item = (RevisionDigest, Arc<Manifest>)>,
    ) -> (Self, Vec<(PluginName, Overlap)>) {
        let (mut owners, mut left_out): (Vec<Owner>, _) = (Vec::new(), Vec::new());
        for (digest, manifest) in active {
            if manifest.endpoints().next().is_none() {
                continue;
            }
            let with_others = || {
                owners
                    .iter()
                    .find_map(|owner| manifest.overlap_with(&owner.manifest))
            };
            match manifest.overlap_with_host().or_else(with_others) {
                Some(overlap) => left_out.push((manifest.name.clone(), overlap)),
                None => owners.push(Owner { digest, manifest }),
            }
        }
        owners.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
        (Self { owners }, left_out)
    }

    /// Every target with its plugin and revision.
    pub fn targets(&self) -> impl Iterator<Item = (&PluginName, RevisionDigest, Target<'_>)> {
        self.owners.iter().flat_map(|Owner { digest, manifest }| {
            let routes = manifest.routes.iter().map(Target::Route);
            let webhooks = manifest.webhooks.iter().map(Target::Webhook);
            routes
                .chain(webhooks)
                .map(move |target| (&manifest.name, *digest, target))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn active(name: &str, paths: &[&str]) -> (RevisionDigest, Arc<Manifest>) {
        let routes: Vec<_> = paths
            .iter()
            .map(|path| json!({ "method": "GET", "path": path, "roles": ["user"], "operation": "any" }))
            .collect();
        let value = json!({ "format": 1, "name": name, "version": "1.0.0", "wit": "0.1", "routes": routes });
        let manifest = Manifest::from_packed(value.to_string().as_bytes()).expect("valid");
        (RevisionDigest::of(name.as_bytes()), Arc::new(manifest))
    }

    fn listed(table: &RouteTable) -> Vec<String> {
        let line = |(plugin, digest, target): (&PluginName, RevisionDigest, Target<'_>)| {
            assert_eq!(digest, RevisionDigest::of(plugin.as_str().as_bytes()));
            let Target::Route(route) = target else {
                panic!("a route")
            };
            format!("{plugin} {} {}", target.methods()[0].as_str(), route.path)
        };
        table.targets().map(line).collect()
    }

    #[test]
    fn it_has_what_every_active_plugin_declares_and_each_is_named_with_its_revision() {
        let (table, left_out) = RouteTable::build([
            active("bb", &["/api/b", "/api/b/{id}"]),
            active("aa", &["/api/a"]),
            active("none", &[]),
        ]);
        assert_eq!(
            listed(&table),
            ["aa GET /api/a", "bb GET /api/b", "bb GET /api/b/{id}"]
        );
        assert!(left_out.is_empty());
    }

    #[test]
    fn of_two_that_overlap_the_one_that_was_active_first_keeps_its_paths() {
        let (table, left_out) = RouteTable::build([
            active("zz", &["/api/x/{id}"]),
            active("aa", &["/api/x/1", "/api/a"]),
            active("host", &["/api/admin/x"]),
        ]);
        assert_eq!(
            listed(&table),
            ["zz GET /api/x/{id}"],
            "all of a plugin or nothing"
        );
        let names: Vec<&str> = left_out.iter().map(|(plugin, _)| plugin.as_str()).collect();
        assert_eq!(names, ["aa", "host"]);
    }
}
