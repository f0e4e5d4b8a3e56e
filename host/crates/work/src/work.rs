//! The parts of the work, put together.

use std::sync::Arc;
use std::time::Duration;

use patchbay_capability::Services;
use patchbay_queue::Broker;
use patchbay_runtime::Runtime;
use patchbay_telemetry::traces::Traces;
use tokio::sync::mpsc;

use crate::body_budget::{BodyBudget, Recording};
use crate::grants::Grants;
use crate::meters::{AttemptMeters, Meters};
use crate::quarantine::{CrashLoop, Quarantine, Rule};
use crate::redactions::Redactions;
use crate::settings::Settings;
use crate::{AttemptHandler, Invoker, WorkerDefaults, Workers};

/// What operators configure of the work.
pub struct WorkConfig {
    pub workers: WorkerDefaults,
    /// When a plugin crashes too often; nothing when that is never.
    pub quarantine: Option<Rule>,
    pub recording: Recording,
    /// Sender of mails of plugins that set none.
    pub mail_from: Option<String>,
    /// What guests hear of a job or request that names no platform.
    pub default_platform: Arc<str>,
    /// How long the numbers of a retired revision are shown.
    pub keep_retired: Duration,
}

/// Everything between a delivered job or a call and the plugin. Nothing works yet; see
/// [`Workers::reconcile`].
pub struct Work {
    pub settings: Arc<Settings>,
    pub grants: Arc<Grants>,
    pub meters: Arc<Meters>,
    pub redactions: Arc<Redactions>,
    pub invoker: Arc<Invoker>,
    pub quarantine: Arc<Quarantine>,
    /// What the quarantine finds to be too many crashes, for whoever carries it out.
    pub crash_loops: mpsc::UnboundedReceiver<CrashLoop>,
    pub budget: Arc<BodyBudget>,
    pub attempts: Arc<AttemptMeters>,
    pub workers: Arc<Workers>,
    pub max_jobs: usize,
    /// Name of this process.
    pub host: String,
}

impl Work {
    pub fn new(
        config: WorkConfig,
        queues: &Broker,
        runtime: &Arc<Runtime>,
        services: Arc<Services>,
        traces: &Traces,
    ) -> Self {
        let (max_jobs, host) = (config.workers.max_jobs, config.workers.host.clone());
        let settings = Arc::new(Settings::new(config.mail_from, config.default_platform));
        let grants = Arc::new(Grants::default());
        let meters = Arc::new(Meters::new(Arc::clone(runtime), config.keep_retired));
        let redactions = Redactions::new(Arc::clone(runtime));
        let invoker = Arc::new(Invoker::new(
            Arc::clone(runtime),
            services,
            Arc::clone(&settings),
            Arc::clone(&grants),
            Arc::clone(&redactions),
            Arc::clone(&meters),
            traces.clone(),
        ));
        let (quarantine, crash_loops) = Quarantine::new(config.quarantine, Arc::clone(runtime));
        let budget = Arc::new(BodyBudget::new(config.recording));
        let handler = AttemptHandler::new(
            Arc::clone(&invoker) as _,
            host.clone(),
            Arc::clone(&quarantine),
            Arc::clone(&budget),
            traces.clone(),
        );
        let attempts = handler.attempts();
        let workers = Arc::new(Workers::new(
            queues.clone(),
            handler,
            Arc::clone(runtime),
            config.workers,
        ));
        Self {
            settings,
            grants,
            meters,
            redactions,
            invoker,
            quarantine,
            crash_loops,
            budget,
            attempts,
            workers,
            max_jobs,
            host,
        }
    }
}
