//! Upstream's scripts that the crate keeps private, embedded by build.rs.

use std::sync::LazyLock;

use redis::Script;

macro_rules! script {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!(concat!(env!("OUT_DIR"), "/", $file, ".lua"))));
    };
}

script!(
    /// The crate's own producer drops the telemetry option and re-writes the data.
    ADD_STANDARD, "addStandardJob-9"
);
script!(ADD_DELAYED, "addDelayedJob-6");
script!(ADD_PRIORITIZED, "addPrioritizedJob-9");
script!(
    /// All of a worker's locks in one round trip.
    EXTEND_LOCKS, "extendLocks-1"
);
script!(
    /// The crate's own retry does not count attempts.
    MOVE_TO_DELAYED, "moveToDelayed-11"
);
script!(SAVE_STACKTRACE, "saveStacktrace-1");
script!(REPROCESS, "reprocessJob-9");
