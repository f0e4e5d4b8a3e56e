//! Who did what: every change by operators, plugins, and hosts on their own.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::answer::List;
use crate::body::NoBody;
use crate::operations;

operations! {
    /// List who did what, the newest first: actions of operators, what hosts did on their own, and
    /// the entries that plugins wrote to audit trails.
    ActivityList = "activity.list": GET "/api/admin/activity" ((), ListActivity, NoBody) -> List<Activity>,
        Viewer, Reads, errors [];
}

/// Which activities to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListActivity {
    /// Only those of this operator, plugin or host (`host NAME`).
    pub actor: Option<String>,
    /// Only this action, such as `queue.pause`, or all actions that begin with this word, such as
    /// `queue`.
    pub action: Option<String>,
    /// Only those on this target: a queue with its jobs, bulk operations on them, its schedules and
    /// dead letters (`emailQueue`), one job (`emailQueue/42`), a plugin, a schedule and so on.
    pub target: Option<String>,
    /// `operator`, `plugin` or `host`.
    #[param(inline)]
    pub kind: Option<ActorKind>,
    /// `done`, `no-effect`, `failed` or `running`.
    #[param(inline)]
    pub result: Option<ActivityResult>,
    /// Only those that began at this time or later (RFC 3339).
    pub since: Option<DateTime<Utc>>,
    /// Only those that began before this time (RFC 3339).
    pub until: Option<DateTime<Utc>>,
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
    /// Activities per page, 1 to 200; default 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ActorKind {
    /// An operator.
    Operator,
    /// A plugin.
    Plugin,
    /// A host, on its own.
    Host,
}

impl ActorKind {
    /// The stable word, such as `operator`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Plugin => "plugin",
            Self::Host => "host",
        }
    }
}

/// How an activity ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ActivityResult {
    /// It succeeded.
    Done,
    /// It succeeded and has changed nothing; `noEffect` says why.
    NoEffect,
    /// It failed, or was refused.
    Failed,
    /// It goes on, or its host was killed meanwhile.
    Running,
}

impl ActivityResult {
    /// The stable word, such as `done`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NoEffect => "no-effect",
            Self::Failed => "failed",
            Self::Running => "running",
        }
    }
}

/// Something that somebody did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Activity {
    /// Unique.
    pub id: String,
    /// When it began.
    pub at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Who acted: an operator, a plugin or a host.
    pub kind: ActorKind,
    /// Name of the operator or plugin, or `host NAME`.
    pub actor: String,
    /// What was done, such as `queue.pause`.
    pub action: String,
    /// What it was done to, such as a queue, or a job as `queue/id`.
    pub target: String,
    /// How it ended.
    pub result: ActivityResult,
    /// Why it has changed nothing, such as `was already paused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_effect: Option<String>,
    /// How many jobs, queues or revisions it changed, where it counts them.
    pub count: Option<i64>,
    /// Why, in the words of whoever did it.
    pub reason: Option<String>,
    /// Address of the client.
    pub from: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// Further details; they depend on the action, and hold no job data.
    pub details: Value,
}
