//! Upstream's scripts that the crate keeps private, embedded by build.rs.

use std::sync::LazyLock;

use redis::Script;

pub(crate) static MOVE_TO_DELAYED: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!(concat!(env!("OUT_DIR"), "/moveToDelayed-11.lua"))));
pub(crate) static SAVE_STACKTRACE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!(concat!(env!("OUT_DIR"), "/saveStacktrace-1.lua"))));
pub(crate) static REPROCESS: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!(concat!(env!("OUT_DIR"), "/reprocessJob-9.lua"))));
