//! Schedules that a guest makes at run time: in its own plugin's queues, under the prefix that its
//! manifest asks for.

use async_trait::async_trait;
use patchbay_model::capability::CapabilityError;
use patchbay_model::grant::Ask;
use patchbay_model::manifest::{Manifest, RuntimeSchedulesSpec};
use patchbay_model::schedule::{Missed, ScheduleId};
use patchbay_model::{InvalidId, PluginName, QueueName};
use tracing::Instrument;

use crate::HostCall;
use crate::call::{Denied, Gate};
use crate::guest::{Answer, Guest, error};

/// Most schedules per page.
const MAX_PAGE: u32 = 100;
/// Longest line for operators, in bytes.
const MAX_DESCRIPTION: usize = 200;

/// A schedule as a guest wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeSchedule {
    pub id: ScheduleId,
    pub queue: QueueName,
    /// Name of its jobs.
    pub name: String,
    /// Data of its jobs: one JSON document.
    pub data: String,
    /// Milliseconds between ticks. Either this or `cron` is set.
    pub every_ms: Option<u64>,
    pub cron: Option<String>,
    pub tz: Option<String>,
    pub missed: Missed,
    pub description: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeScheduleState {
    pub schedule: RuntimeSchedule,
    /// By an operator.
    pub is_paused: bool,
    /// Unix milliseconds.
    pub next_at_ms: Option<u64>,
}

/// Keeps the schedules of plugins and makes them tick.
#[async_trait]
pub trait RuntimeSchedules: Send + Sync + 'static {
    /// Whether anything has changed. Refused is what does not tick, what ticks too often, and an id
    /// that somebody else has.
    async fn put(
        &self,
        plugin: &PluginName,
        spec: &RuntimeSchedulesSpec,
        wanted: RuntimeSchedule,
    ) -> Result<bool, CapabilityError>;

    /// Whether the plugin had made one.
    async fn remove(&self, plugin: &PluginName, id: &ScheduleId) -> Result<bool, CapabilityError>;

    /// Those with ids after this one, sorted by id.
    async fn page(
        &self,
        plugin: &PluginName,
        after: &str,
        limit: u32,
    ) -> Result<Vec<RuntimeScheduleState>, CapabilityError>;
}

pub(crate) fn is_asked_for_by(manifest: &Manifest) -> bool {
    manifest.runtime_schedules.is_some()
}

/// What the manifest asks for and an operator has granted.
fn granted(gate: &Gate) -> Result<&RuntimeSchedulesSpec, CapabilityError> {
    gate.not_in_transaction()?;
    let spec = gate.call().manifest.runtime_schedules.as_ref();
    let spec = spec.ok_or_else(|| Denied("the manifest has no [runtime_schedules]".into()))?;
    gate.granted(Ask::schedules(spec))?;
    Ok(spec)
}

fn covered(spec: &RuntimeSchedulesSpec, id: &str) -> Result<ScheduleId, CapabilityError> {
    if !spec.covers(id) {
        return Err(CapabilityError::denied(format!(
            "the plugin may only make schedules whose ids begin with {:?}, with something after it",
            spec.prefix
        )));
    }
    id.parse()
        .map_err(|error: InvalidId| CapabilityError::invalid(error.to_string()))
}

async fn put(gate: Gate, wanted: RuntimeSchedule) -> Result<bool, CapabilityError> {
    let spec = granted(&gate)?;
    covered(spec, wanted.id.as_str())?;
    if !spec.queues.contains(&wanted.queue) {
        return Err(CapabilityError::denied(format!(
            "the manifest does not ask for schedules in the queue {}",
            wanted.queue
        )));
    }
    if wanted.description.len() > MAX_DESCRIPTION || wanted.description.contains('\n') {
        return Err(CapabilityError::invalid(format!(
            "the description must be one line of at most {MAX_DESCRIPTION} bytes"
        )));
    }
    let (call, schedules) = (gate.call(), &gate.services().made.schedules);
    schedules
        .put(&call.manifest.name, spec, wanted)
        .instrument(call.span.clone())
        .await
}

async fn remove(gate: Gate, id: String) -> Result<bool, CapabilityError> {
    let id = covered(granted(&gate)?, &id)?;
    let (call, schedules) = (gate.call(), &gate.services().made.schedules);
    schedules
        .remove(&call.manifest.name, &id)
        .instrument(call.span.clone())
        .await
}

async fn page(
    gate: Gate,
    after: Option<String>,
    limit: u32,
) -> Result<Vec<RuntimeScheduleState>, CapabilityError> {
    granted(&gate)?;
    let (call, schedules) = (gate.call(), &gate.services().made.schedules);
    schedules
        .page(
            &call.manifest.name,
            after.as_deref().unwrap_or_default(),
            limit.clamp(1, MAX_PAGE),
        )
        .instrument(call.span.clone())
        .await
}

fn missed(word: &str) -> Result<Missed, CapabilityError> {
    match word {
        "skip" => Ok(Missed::Skip),
        "once" => Ok(Missed::Once),
        other => Err(CapabilityError::invalid(format!(
            "missed must be \"skip\" or \"once\", not {other:?}"
        ))),
    }
}

macro_rules! bind {
    ($version:ident) => {
        mod $version {
            use super::*;
            use patchbay_runtime::wit::$version::schedules::{Host, Schedule, State};

            fn wanted(schedule: Schedule) -> Result<RuntimeSchedule, CapabilityError> {
                let invalid = |error: InvalidId| CapabilityError::invalid(error.to_string());
                Ok(RuntimeSchedule {
                    id: schedule.id.parse().map_err(invalid)?,
                    queue: schedule.queue.parse().map_err(invalid)?,
                    name: schedule.name,
                    data: schedule.data,
                    every_ms: schedule.every_ms,
                    cron: schedule.cron,
                    tz: schedule.tz,
                    missed: missed(&schedule.missed)?,
                    description: schedule.description,
                })
            }

            fn state(state: RuntimeScheduleState) -> State {
                let schedule = state.schedule;
                State {
                    schedule: Schedule {
                        id: schedule.id.to_string(),
                        queue: schedule.queue.to_string(),
                        name: schedule.name,
                        data: schedule.data,
                        every_ms: schedule.every_ms,
                        cron: schedule.cron,
                        tz: schedule.tz,
                        missed: match schedule.missed {
                            Missed::Skip => "skip".into(),
                            Missed::Once => "once".into(),
                        },
                        description: schedule.description,
                    },
                    paused: state.is_paused,
                    next_at: state.next_at_ms,
                }
            }

            impl Host for Guest<'_> {
                async fn put(&mut self, schedule: Schedule) -> Answer<bool> {
                    let wanted = match wanted(schedule) {
                        Ok(wanted) => wanted,
                        Err(invalid) => return Ok(Err(error(invalid))),
                    };
                    let put = |gate| put(gate, wanted);
                    Ok(self.through(HostCall::Schedules, put).await?.map_err(error))
                }
                async fn remove(&mut self, id: String) -> Answer<bool> {
                    let remove = |gate| remove(gate, id);
                    let removed = self.through(HostCall::Schedules, remove).await?;
                    Ok(removed.map_err(error))
                }
                async fn page(&mut self, after: Option<String>, limit: u32) -> Answer<Vec<State>> {
                    let page = move |gate| page(gate, after, limit);
                    let page = self.through(HostCall::Schedules, page).await?;
                    Ok(page
                        .map(|states| states.into_iter().map(state).collect())
                        .map_err(error))
                }
            }
        }
    };
}

bind!(v0_1);
bind!(v0_2);
