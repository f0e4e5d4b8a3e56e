//! Completion of names in a shell: they come from the host, within a second, or not at all.

use std::ffi::OsStr;
use std::sync::OnceLock;
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use patchbay_model::shell::word;
use serde_json::Value;

use super::client::{Client, ClientArgs, Connection};

/// Somebody waits with a finger on the key.
const LIMIT: Duration = Duration::from_secs(1);

/// Finds the host that `patchbay dev` runs here.
static DEV: OnceLock<fn() -> Option<Connection>> = OnceLock::new();

/// Says how to find the host that `patchbay dev` runs here.
pub fn find_dev_with(find: fn() -> Option<Connection>) {
    let _is_set = DEV.set(find);
}

pub(super) fn queues() -> ArgValueCompleter {
    of("queues", "/name")
}

pub(super) fn plugins() -> ArgValueCompleter {
    of("plugins", "/name")
}

pub(super) fn routes() -> ArgValueCompleter {
    of("routes", "/route")
}

pub(super) fn webhooks() -> ArgValueCompleter {
    of("webhooks", "/webhook")
}

pub(super) fn schedules() -> ArgValueCompleter {
    of("schedules", "/id")
}

pub(super) fn alert_rules() -> ArgValueCompleter {
    of("alerts/rules", "/rule")
}

pub(super) fn searches() -> ArgValueCompleter {
    of("searches", "/name")
}

fn of(path: &'static str, name: &'static str) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| {
        let typed = current.to_string_lossy().into_owned();
        let mut names = names(path, name).unwrap_or_default();
        // A shell puts them into the line as they are: what it would not take literally is left out.
        names.retain(|name| name.starts_with(&typed) && word(name) == *name);
        names.into_iter().map(CompletionCandidate::new).collect()
    })
}

fn names(path: &str, name: &str) -> Option<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let client = client()?;
    let items = runtime.block_on(async {
        let response = client.get_raw(path, LIMIT).await.ok()?;
        let body: Value = serde_json::from_slice(&response.bytes().await.ok()?).ok()?;
        body["data"].as_array().cloned()
    })?;
    let name = |item: &Value| Some(item.pointer(name)?.as_str()?.to_owned());
    Some(items.iter().filter_map(name).collect())
}

fn client() -> Option<Client> {
    let find = DEV.get().copied();
    let args = ClientArgs::from_environment().or(|| find.and_then(|find| find()));
    Client::from_args(&args).ok()
}
