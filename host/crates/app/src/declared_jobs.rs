//! Whether a job fits what the active plugin of its queue declares: the names of its jobs, and the
//! JSON Schemas of their data. One check for everything that operators add or change.
//!
//! Nothing is checked in a queue without an active plugin, nor where the manifest declares no jobs.
//! What guests and BullMQ's clients add does not come here: those queues take anything, as BullMQ
//! does, and the plugin refuses what it cannot read.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use patchbay_model::json_schema::{Schema, Values, Violations};
use patchbay_model::manifest::Manifest;
use patchbay_model::{PluginName, QueueName, RevisionDigest};
use patchbay_runtime::Runtime;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::error::Error;
use crate::nearest::nearest;

/// Violations that an error lists.
const MAX_VIOLATIONS: usize = 5;
/// Names that a message lists. The details have all.
const MAX_NAMES: usize = 10;

/// The jobs that active plugins declare.
pub(crate) struct DeclaredJobs {
    runtime: Arc<Runtime>,
    /// Compiled schemas are kept until another revision handles the queue.
    known: Mutex<HashMap<QueueName, Arc<QueueJobs>>>,
}

impl DeclaredJobs {
    pub(crate) fn new(runtime: Arc<Runtime>) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            known: Mutex::default(),
        })
    }

    /// Checks the name and the data of a job.
    pub(crate) fn check(&self, queue: &QueueName, name: &str, data: &str) -> Result<(), Misfit> {
        self.of(queue)
            .map_or(Ok(()), |jobs| jobs.check(queue, name, data))
    }

    /// Checks the data of a job that exists. Its name cannot be changed: an unknown one is no
    /// reason to leave the data as it is.
    pub(crate) fn check_data(
        &self,
        queue: &QueueName,
        name: &str,
        data: &str,
    ) -> Result<(), Misfit> {
        self.of(queue)
            .map_or(Ok(()), |jobs| jobs.check_data(queue, name, data))
    }

    fn of(&self, queue: &QueueName) -> Option<Arc<QueueJobs>> {
        let Some(owner) = self.runtime.registry().owner_of(queue) else {
            self.known.lock().remove(queue);
            return None;
        };
        let mut known = self.known.lock();
        if let Some(jobs) = known
            .get(queue)
            .filter(|jobs| jobs.digest == Some(owner.digest()))
        {
            return Some(Arc::clone(jobs));
        }
        let mut jobs = QueueJobs::of(owner.manifest(), queue)?;
        jobs.digest = Some(owner.digest());
        let jobs = Arc::new(jobs);
        known.insert(queue.clone(), Arc::clone(&jobs));
        Some(jobs)
    }
}

/// What one manifest declares of one queue.
struct QueueJobs {
    digest: Option<RevisionDigest>,
    plugin: PluginName,
    jobs: Vec<DeclaredJob>,
}

struct DeclaredJob {
    name: String,
    schema: Option<Value>,
    /// `None` within if it cannot be used. It was checked when the plugin was staged.
    compiled: OnceLock<Option<Schema>>,
}

impl QueueJobs {
    fn of(manifest: &Manifest, queue: &QueueName) -> Option<Self> {
        let jobs = manifest.queue(queue)?.jobs.iter().map(|job| DeclaredJob {
            name: job.name.clone(),
            schema: job.schema.clone(),
            compiled: OnceLock::new(),
        });
        Some(Self {
            digest: None,
            plugin: manifest.name.clone(),
            jobs: jobs.collect(),
        })
    }

    fn check(&self, queue: &QueueName, name: &str, data: &str) -> Result<(), Misfit> {
        if self.jobs.is_empty() || self.jobs.iter().any(|job| job.name == name) {
            return self.check_data(queue, name, data);
        }
        Err(self.misfit(queue, name, Reason::Name))
    }

    fn check_data(&self, queue: &QueueName, name: &str, data: &str) -> Result<(), Misfit> {
        let Some(job) = self.jobs.iter().find(|job| job.name == name) else {
            return Ok(());
        };
        block_in_place(|| job.fits(data))
            .map_err(|violations| self.misfit(queue, name, Reason::Data(violations)))
    }

    fn misfit(&self, queue: &QueueName, name: &str, reason: Reason) -> Misfit {
        Misfit {
            plugin: self.plugin.clone(),
            queue: queue.clone(),
            name: name.to_owned(),
            declared: self.jobs.iter().map(|job| job.name.clone()).collect(),
            reason,
        }
    }
}

impl DeclaredJob {
    fn fits(&self, data: &str) -> Result<(), Violations> {
        let compile = || self.schema.as_ref().and_then(|it| Schema::new(it).ok());
        let Some(schema) = self.compiled.get_or_init(compile) else {
            return Ok(());
        };
        let data: Value = serde_json::from_str(data).map_err(|_| {
            Violations::whole("is not JSON that can be checked: not JSON at all, 128 levels or more, or a number that is too large")
        })?;
        schema.fits(&data, Values::Withheld, MAX_VIOLATIONS)
    }
}

/// Why a job does not fit. It repeats no value of the data.
#[derive(Debug)]
pub(crate) struct Misfit {
    plugin: PluginName,
    queue: QueueName,
    name: String,
    declared: Vec<String>,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    /// The plugin declares no job of this name.
    Name,
    Data(Violations),
}

/// What a caller can do all the same, and how to ask for it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Forcing {
    /// Of a job.
    Add,
    /// Of a job in a flow, at this JSON Pointer.
    AddToFlow,
    SetData,
    Schedule,
}

impl Forcing {
    fn advice(self) -> &'static str {
        match self {
            Self::Add => r#"or add it all the same with --force (in the API: "force": true)"#,
            Self::AddToFlow => {
                r#"or add the flow all the same with --force (in the API: ?force=true, or "force": true in this job)"#
            }
            Self::SetData => "or set it all the same with --force (in the API: ?force=true)",
            Self::Schedule => {
                r#"or store the schedule all the same with --force (in the API: "force": true)"#
            }
        }
    }
}

impl Misfit {
    /// Why the new data of this job is refused, for the result of a bulk operation.
    pub(crate) fn of_edited_data(&self) -> String {
        match &self.reason {
            Reason::Name => self.sentence(),
            Reason::Data(violations) => format!(
                "its new data does not fit the schema that plugin {} declares for job {:?}: {violations}",
                self.plugin, self.name
            ),
        }
    }

    pub(crate) fn refusal(&self, forcing: Forcing) -> Error {
        let remedy = match self.reason {
            Reason::Name => "Correct the name",
            Reason::Data(_) => "Fix the data",
        };
        let message = format!("{}. {remedy}, {}", self.sentence(), forcing.advice());
        Error::does_not_fit(message, self.details())
    }

    fn sentence(&self) -> String {
        let Self {
            plugin,
            queue,
            name,
            ..
        } = self;
        match &self.reason {
            Reason::Name => format!(
                "Plugin {plugin} declares no job {name:?} for queue {queue}{}",
                self.known_names()
            ),
            Reason::Data(violations) => format!(
                "The data does not fit the schema that plugin {plugin} declares for job {name:?} of queue {queue}: {violations}"
            ),
        }
    }

    fn known_names(&self) -> String {
        let declared = self.declared.iter().map(String::as_str);
        let suggestion = nearest(&self.name, declared)
            .map_or_else(String::new, |known| format!(". Did you mean {known:?}?"));
        let end = if suggestion.is_empty() { "." } else { "" };
        let shown: Vec<&str> = self
            .declared
            .iter()
            .take(MAX_NAMES)
            .map(String::as_str)
            .collect();
        let rest = match self.declared.len() - shown.len() {
            0 => String::new(),
            rest => format!(" and {rest} more"),
        };
        format!("{suggestion}{end} Declared: {}{rest}", shown.join(", "))
    }

    /// For programs.
    fn details(&self) -> Value {
        let violations = match &self.reason {
            Reason::Name => &[][..],
            Reason::Data(violations) => &violations.listed,
        };
        json!({ "violations": violations, "jobNames": self.declared })
    }
}

/// Whether a job is let through although it does not fit. Refuses it unless that is wanted.
pub(crate) fn is_forced(
    checked: Result<(), Misfit>,
    force: bool,
    forcing: Forcing,
) -> Result<bool, Error> {
    match checked {
        Ok(()) => Ok(false),
        Err(_) if force => Ok(true),
        Err(misfit) => Err(misfit.refusal(forcing)),
    }
}

/// Notes in the details of an action that it was forced.
pub(crate) fn with_forced(mut details: Value, is_forced: bool) -> Value {
    if is_forced {
        details["forced"] = true.into();
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(jobs: &str) -> QueueJobs {
        let manifest = format!(
            "name = \"mailer\"\nversion = \"0.1.0\"\nwit = \"0.1\"\n[[queues]]\nname = \"q\"\n{jobs}"
        );
        let schema = r#"{"type":"object","required":["to"],"properties":{"to":{"type":"array"},"n":{"type":"integer"}}}"#;
        let manifest =
            Manifest::from_toml(&manifest, |_| Ok(schema.to_owned())).expect("a manifest");
        QueueJobs::of(&manifest, &queue()).expect("the queue")
    }

    fn queue() -> QueueName {
        "q".parse().expect("a queue")
    }

    const SEND: &str = "[[queues.jobs]]\nname = \"send\"\nschema = \"send.json\"\n\
                        [[queues.jobs]]\nname = \"template\"\n";

    #[tokio::test(flavor = "multi_thread")]
    async fn data_that_does_not_fit_is_refused_with_its_places_and_without_its_values() {
        let jobs = declared(SEND);
        let misfit = jobs
            .check(&queue(), "send", r#"{"to":"asha@example.com","n":"many"}"#)
            .expect_err("two misfits");
        let error = misfit.refusal(Forcing::Add);
        assert_eq!(error.code, "does-not-fit");
        for part in [
            "/to: ",
            "/n: ",
            "mailer",
            "\"send\"",
            "--force",
            "\"force\": true",
        ] {
            assert!(error.message.contains(part), "{part}: {}", error.message);
        }
        assert!(!error.message.contains("asha") && !error.message.contains("many"));
        let details = error.details.expect("details");
        assert_eq!(details["violations"][0]["path"], "/n");
        assert_eq!(details["jobNames"], json!(["send", "template"]));
        assert!(!details.to_string().contains("asha"));
        for data in [r#"{"to":[]}"#, r#"{"to":[],"n":1}"#] {
            assert!(jobs.check(&queue(), "send", data).is_ok(), "{data}");
        }
        assert!(jobs.check(&queue(), "template", "7").is_ok(), "no schema");
        for data in ["{", &"[".repeat(200)] {
            assert!(jobs.check(&queue(), "send", data).is_err(), "{data}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_unknown_name_is_refused_with_the_known_ones_and_the_nearest() {
        let jobs = declared(SEND);
        let told = |name: &str| {
            let misfit = jobs.check(&queue(), name, "{}").expect_err("unknown");
            misfit.refusal(Forcing::Add).message
        };
        let typo = told("sned");
        assert!(
            typo.contains("Did you mean \"send\"? Declared: send, template. Correct"),
            "{typo}"
        );
        let other = told("something-else");
        assert!(
            !other.contains("mean") && other.contains("queue q. Declared: send"),
            "{other}"
        );
        assert!(
            jobs.check_data(&queue(), "sned", "{}").is_ok(),
            "the name of a job that exists stays"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_queue_without_declared_jobs_takes_any() {
        assert!(declared("").check(&queue(), "any", "nonsense").is_ok());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_forced_is_let_through_and_noted_only_if_it_does_not_fit() {
        let jobs = declared(SEND);
        for (data, force, expected) in [
            (r#"{"to":[]}"#, true, Some(false)),
            ("{}", true, Some(true)),
            ("{}", false, None),
        ] {
            let checked = jobs.check(&queue(), "send", data);
            let forced = is_forced(checked, force, Forcing::SetData).ok();
            assert_eq!(forced, expected, "{data} {force}");
        }
        assert_eq!(with_forced(json!({}), true), json!({ "forced": true }));
        assert_eq!(with_forced(json!({}), false), json!({}));
    }
}
