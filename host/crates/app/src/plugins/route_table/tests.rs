use serde_json::{Value, json};

use super::*;

fn source(name: &str, routes: &[(&str, &str)]) -> Source {
    let route = |(method, path): &(&str, &str)| json!({ "id": format!("{method}{}", path.replace(['/', '{', '}'], ".")), "method": method, "path": path, "roles": ["user"], "operation": "any" });
    let routes: Vec<Value> = routes.iter().map(route).collect();
    let value =
        json!({ "format": 1, "name": name, "version": "1.0.0", "wit": "0.1", "routes": routes });
    let manifest = Manifest::from_packed(value.to_string().as_bytes()).expect("valid");
    Source {
        digest: RevisionDigest::of(name.as_bytes()),
        runner: Runner::NotLoaded("a test".into()),
        granted: Arc::new(manifest.asks().into_iter().collect()),
        manifest: Arc::new(manifest),
    }
}

fn build(sources: Vec<Source>) -> (RouteTable, Vec<String>) {
    let (table, left_out) = RouteTable::build(&RouteTable::default(), sources).expect("new");
    (
        table,
        left_out
            .iter()
            .map(|(plugin, _)| plugin.to_string())
            .collect(),
    )
}

fn listed(table: &RouteTable) -> Vec<String> {
    let line = |route: &Arc<Route>| {
        format!(
            "{} {} {}",
            route.plugin,
            route.spec.method.as_str(),
            route.spec.path
        )
    };
    table.routes().iter().map(line).collect()
}

#[test]
fn it_has_what_every_active_plugin_declares_and_is_not_built_again_from_the_same() {
    let sources = vec![
        source("bb", &[("GET", "/api/b"), ("GET", "/api/b/{id}")]),
        source("aa", &[("GET", "/api/a")]),
        source("none", &[]),
    ];
    let (table, left_out) = build(sources.clone());
    assert_eq!(
        listed(&table),
        ["aa GET /api/a", "bb GET /api/b", "bb GET /api/b/{id}"]
    );
    assert!(left_out.is_empty());
    assert!(RouteTable::build(&table, sources.clone()).is_none());
    let mut revoked = sources;
    revoked[0].granted = Arc::default();
    let (table, _) = RouteTable::build(&table, revoked).expect("another");
    assert_eq!(listed(&table), ["aa GET /api/a"], "only what is granted");
    let told = table.ungranted().iter().map(|route| route.ask.as_str());
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            "route GET /api/b for user",
            "route GET /api/b/{id} for user"
        ]
    );
}

#[test]
fn of_two_that_overlap_the_one_that_was_active_first_keeps_its_paths() {
    let (table, left_out) = build(vec![
        source("zz", &[("GET", "/api/x/{id}")]),
        source("aa", &[("GET", "/api/x/1"), ("GET", "/api/a")]),
        source("host", &[("GET", "/api/admin/x")]),
    ]);
    assert_eq!(
        listed(&table),
        ["zz GET /api/x/{id}"],
        "all of a plugin or nothing"
    );
    assert_eq!(left_out, ["aa", "host"]);
}

#[test]
fn a_stopped_plugin_keeps_its_webhooks_until_another_one_takes_their_paths() {
    let with_webhooks = |name: &str, paths: &[&str], runner: Runner| {
        let webhook = |(place, path): (usize, &&str)| json!({ "name": format!("w{place}"), "path": path, "queue": name });
        let webhooks: Vec<Value> = paths.iter().enumerate().map(webhook).collect();
        let value = json!({
            "format": 1, "name": name, "version": "1.0.0", "wit": "0.1", "queues": [{ "name": name }], "webhooks": webhooks,
            "routes": [{ "method": "GET", "path": format!("/api/{name}-route"), "roles": ["user"], "operation": "any" }],
        });
        let manifest = Manifest::from_packed(value.to_string().as_bytes()).expect("valid");
        Source {
            digest: RevisionDigest::of(name.as_bytes()),
            runner,
            granted: Arc::new(manifest.asks().into_iter().collect()),
            manifest: Arc::new(manifest),
        }
    };
    let stopped = |at: &str| Runner::Deactivated(at.into());
    let sources = vec![
        with_webhooks("later", &["/api/w/b", "/api/w/c"], stopped("2")),
        with_webhooks("earlier", &["/api/w/a", "/api/w/c"], stopped("1")),
    ];
    let named = |table: &RouteTable| -> Vec<String> {
        let webhooks = table.webhooks().iter();
        webhooks
            .map(|of| format!("{} {} {}", of.name(), of.spec.path, of.runner.state()))
            .collect()
    };
    let (table, _) = build(sources.clone());
    assert_eq!(
        named(&table),
        [
            "earlier.w0 /api/w/a deactivated",
            "later.w0 /api/w/b deactivated",
            "later.w1 /api/w/c deactivated"
        ],
        "the last one to be stopped keeps what both had"
    );
    assert!(table.routes().is_empty(), "its routes are gone");
    let active = source("active", &[("GET", "/api/w/{any}")]);
    let (table, left_out) = build([vec![active], sources].concat());
    assert!(named(&table).is_empty() && left_out.is_empty());
}

#[test]
fn the_methods_of_a_path_are_told_and_head_is_get() {
    let (table, _) = build(vec![source(
        "aa",
        &[
            ("GET", "/api/a/{x}"),
            ("POST", "/api/a/{y}"),
            ("POST", "/api/a/b"),
        ],
    )]);
    let found = table.find("/api/a/z").expect("valid").expect("known");
    assert_eq!(found.allow(), "GET, POST, HEAD, OPTIONS");
    assert_eq!(found.values(), ["z"]);
    let route = found.route("HEAD").expect("GET");
    assert_eq!(route.spec.path.as_str(), "/api/a/{x}");
    let literal = table.find("/api/a/b").expect("valid").expect("known");
    assert_eq!(literal.allow(), "POST, OPTIONS", "a path has one owner");
    assert!(
        table.find("/api/a//b").is_err() && table.find("/api/b").is_ok_and(|found| found.is_none())
    );
    assert!(
        RouteTable::default().find("/api/a//b").is_ok(),
        "nothing is judged without routes"
    );
}
