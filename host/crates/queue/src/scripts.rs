//! BullMQ's scripts, embedded by build.rs, and calls of them.

use std::sync::LazyLock;

use redis::aio::ConnectionManager;
use redis::{ErrorKind, FromRedisValue, RedisResult, Script, ServerErrorKind, ToRedisArgs};

macro_rules! script {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!(concat!(env!("OUT_DIR"), "/", $file, ".lua"))));
    };
}

script!(ADD_JOB_SCHEDULER, "addJobScheduler-11");
script!(ADD_DELAYED, "addDelayedJob-6");
script!(ADD_PARENT, "addParentJob-6");
script!(ADD_PRIORITIZED, "addPrioritizedJob-9");
script!(ADD_STANDARD, "addStandardJob-9");
script!(CHANGE_DELAY, "changeDelay-4");
script!(CHANGE_PRIORITY, "changePriority-7");
script!(CLEAN, "cleanJobsInSet-3");
script!(DRAIN, "drain-5");
script!(
    /// Renews all of a worker's locks in one round trip.
    EXTEND_LOCKS, "extendLocks-1"
);
script!(MOVE_JOBS_TO_WAIT, "moveJobsToWait-8");
script!(MOVE_STALLED_TO_WAIT, "moveStalledJobsToWait-9");
script!(MOVE_TO_ACTIVE, "moveToActive-11");
script!(MOVE_TO_DELAYED, "moveToDelayed-11");
script!(MOVE_TO_FINISHED, "moveToFinished-14");
script!(
    /// Hands a taken job back, which its name does not say.
    MOVE_TO_WAIT, "moveJobFromActiveToWait-9"
);
script!(OBLITERATE, "obliterate-2");
script!(PAUSE, "pause-7");
script!(PROMOTE, "promote-9");
script!(REMOVE_JOB, "removeJob-2");
script!(REMOVE_JOB_SCHEDULER, "removeJobScheduler-3");
script!(
    /// For use after a whole tree was added: releases parents whose children were all done already.
    RELEASE_PARENT, "releaseParentIfNoPendingDependencies-2"
);
script!(REPROCESS, "reprocessJob-9");
script!(
    /// Moves a job from active directly to the queue: a retry without delay.
    RETRY, "retryJob-11"
);
script!(UPDATE_DATA, "updateData-1");
script!(UPDATE_JOB_SCHEDULER, "updateJobScheduler-12");

pub(crate) struct Call {
    script: &'static Script,
    command: redis::Cmd,
}

impl Call {
    pub(crate) fn new(script: &'static Script, keys: &[impl AsRef<str>]) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(keys.len());
        for key in keys {
            command.arg(key.as_ref());
        }
        Self { script, command }
    }

    pub(crate) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.command.arg(arg);
        self
    }

    /// For a pipeline; see [`is_unknown`].
    pub(crate) fn command(&self) -> redis::Cmd {
        self.command.clone()
    }

    pub(crate) fn is_same_script(&self, other: &Self) -> bool {
        self.script.get_hash() == other.script.get_hash()
    }

    pub(crate) async fn load(&self, connection: &mut ConnectionManager) -> RedisResult<()> {
        self.script
            .prepare_invoke()
            .load_async(connection)
            .await
            .map(drop)
    }

    pub(crate) async fn invoke<T: FromRedisValue>(
        &self,
        connection: &mut ConnectionManager,
    ) -> RedisResult<T> {
        match self.command.query_async(connection).await {
            Err(error) if is_unknown(&error) => {
                self.load(connection).await?;
                self.command.query_async(connection).await
            }
            answered => answered,
        }
    }
}

/// Redis forgets scripts when it restarts.
pub(crate) fn is_unknown(error: &redis::RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// The error for an argument that MessagePack cannot encode.
pub(crate) fn unwritable(error: rmp_serde::encode::Error) -> redis::RedisError {
    (
        redis::ErrorKind::Client,
        "arguments cannot be written",
        error.to_string(),
    )
        .into()
}
