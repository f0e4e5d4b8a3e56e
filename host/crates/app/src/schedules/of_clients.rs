//! Job schedulers and repeatables that BullMQ's clients made. They can be seen and removed here; all
//! else is up to the client.

use std::collections::HashSet;

use patchbay_api::reveal::Reveal;
use patchbay_api::schedules::{
    ClientScheduler, SchedulerView, SchedulesRemoveOfClient, SchedulesShowOfClient,
};
use patchbay_model::QueueName;
use patchbay_model::job::trail_name;
use patchbay_model::schedule::ScheduleId;
use patchbay_model::shell::{arguments, arguments_with, option, word};
use patchbay_queue::QueueError;
use patchbay_store::ScheduleRow;
use serde_json::{Value, json};

use super::Schedules;
use super::view::{local_time, overdue, time};
use crate::actions::Caller;
use crate::error::{Error, Kind};
use crate::nearest::{suggested, suggesting};
use crate::reveal;

/// What is to be done with a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Show,
    Change,
    Pause,
    Resume,
    Run,
    Remove,
    Restore,
}

impl Schedules {
    /// Lists the job schedulers of BullMQ's clients.
    pub async fn list_of_clients(&self) -> Result<Vec<ClientScheduler>, Error> {
        let mut found = self.all_of_clients().await?;
        // Lists show no job data.
        found.iter_mut().for_each(|one| one.view.data = None);
        let known: Vec<(&str, &str)> = found
            .iter()
            .map(|one| (one.queue.as_str(), one.view.id.as_str()))
            .collect();
        let mut ran = self.last_runs(&known).await?;
        for one in &mut found {
            one.last_run = ran.remove(&(one.queue.to_string(), one.view.id.clone()));
        }
        Ok(found)
    }

    /// With their data, and without their last runs.
    async fn all_of_clients(&self) -> Result<Vec<ClientScheduler>, Error> {
        let ours = self.broker.known_schedules().await?;
        let mut found = Vec::new();
        for queue in self.broker.list().await? {
            match self.of_clients(&queue, &ours).await {
                // The list of queues reports it.
                Err(QueueError::Damaged { .. }) => {}
                schedulers => found.extend(schedulers?),
            }
        }
        Ok(found)
    }

    async fn of_clients(
        &self,
        queue: &QueueName,
        ours: &HashSet<(QueueName, String)>,
    ) -> Result<Vec<ClientScheduler>, QueueError> {
        let schedulers = self.broker.schedulers(queue).await?;
        Ok(schedulers
            .into_iter()
            .filter(|view| !ours.contains(&(queue.clone(), view.id.clone())))
            .map(|view| self.of_client(queue, view))
            .collect())
    }

    fn of_client(&self, queue: &QueueName, view: SchedulerView) -> ClientScheduler {
        let default_zone = || self.broker.default_zone().to_string();
        let zone_in_force = view
            .pattern
            .as_ref()
            .map(|_| view.zone.clone().unwrap_or_else(default_zone));
        ClientScheduler {
            next_time: time(view.next_at),
            next_at_local: local_time(view.next_at, zone_in_force.as_deref())
                .filter(|_| view.alive),
            overdue_ms: overdue(&view, self.broker.now_ms()),
            last_run: None,
            zone_in_force,
            queue: queue.clone(),
            view,
        }
    }

    /// Shows one with the data of its jobs, redacted as they are.
    pub async fn show_of_client(
        &self,
        who: &Caller,
        queue: &str,
        id: &str,
        asked: &Reveal,
    ) -> Result<ClientScheduler, Error> {
        reveal::check(asked)?;
        let queue: QueueName = queue.parse()?;
        if !asked.reveal {
            let mut shown = self.one_of_client(&queue, id).await?;
            let redaction = self.plugins.redaction(&queue);
            shown.view.data = shown
                .view
                .data
                .map(|data| redaction.data(&data).0.text.into_owned());
            return Ok(shown);
        }
        let (act, nothing) = (self.one_of_client(&queue, id), |_: &ClientScheduler| {
            Value::Null
        });
        let details = reveal::details(asked);
        self.actions
            .record_as::<SchedulesShowOfClient, _>(who, &target(&queue, id), details, act, nothing)
            .await
    }

    async fn one_of_client(&self, queue: &QueueName, id: &str) -> Result<ClientScheduler, Error> {
        let ours = self.broker.known_schedules().await?;
        let all = self.of_clients(queue, &ours).await?;
        match all.iter().position(|one| one.view.id == id) {
            Some(place) => {
                let mut shown = all.into_iter().nth(place).ok_or_else(Error::internal)?;
                shown.last_run = self.last_run(queue.as_str(), id).await?;
                Ok(shown)
            }
            None => Err(self.not_of_client(queue, id, &all, &ours).await),
        }
    }

    async fn not_of_client(
        &self,
        queue: &QueueName,
        id: &str,
        all: &[ClientScheduler],
        ours: &HashSet<(QueueName, String)>,
    ) -> Error {
        if ours.contains(&(queue.clone(), id.to_owned())) {
            return Error::conflict(format!(
                "{} is a schedule of Patchbay. Leave out --queue, or use /api/admin/schedules. See: patchbay schedule show {}",
                word(id),
                arguments(&[id])
            ));
        }
        if let Err(error) = self.catalog.refuse_unknown(queue).await {
            return error;
        }
        let message = format!(
            "No BullMQ client has made a job scheduler {} in queue {}. See: patchbay schedule list",
            word(id),
            word(queue.as_str())
        );
        let ids = all.iter().map(|one| one.view.id.as_str());
        Error::not_found(suggesting(message, id, ids))
    }

    /// Removes one as BullMQ's own clients do.
    pub async fn remove_of_client(&self, who: &Caller, queue: &str, id: &str) -> Result<(), Error> {
        let queue: QueueName = queue.parse()?;
        self.one_of_client(&queue, id).await?;
        let act = async {
            match self.broker.remove_of_client(&queue, id).await? {
                true => Ok(()),
                // Somebody was quicker.
                false => Err(Error::not_found(format!(
                    "Job scheduler {} is gone already. See: patchbay schedule list",
                    word(id)
                ))),
            }
        };
        self.actions
            .record::<SchedulesRemoveOfClient, _>(who, &target(&queue, id), json!({}), act)
            .await
    }

    /// The row of a schedule of Patchbay; of any other id, why it is none.
    pub(super) async fn own(&self, id: &str, to: Use) -> Result<ScheduleRow, Error> {
        let own = self.own_id(id, to).await?;
        match self.store.schedule(&own).await.map_err(Error::from) {
            Err(error) if error.kind == Kind::NotFound => Err(self.what_else(id, to, error).await),
            found => found,
        }
    }

    /// The id of a schedule, which need not exist. Ids of clients may have other characters.
    pub(super) async fn own_id(&self, id: &str, to: Use) -> Result<ScheduleId, Error> {
        match id.parse::<ScheduleId>() {
            Ok(id) => Ok(id),
            Err(error) => Err(self.what_else(id, to, error.into()).await),
        }
    }

    /// `error`, with what is known of a schedule that is not Patchbay's.
    async fn what_else(&self, id: &str, to: Use, error: Error) -> Error {
        // The suggestion may fail; the answer is the same.
        let of_clients = self.all_of_clients().await.unwrap_or_default();
        let same: Vec<&ClientScheduler> =
            of_clients.iter().filter(|one| one.view.id == id).collect();
        if let Some(first) = same.first() {
            let queues: Vec<&str> = same.iter().map(|one| one.queue.as_str()).collect();
            return made_by_client(id, &queues, first.view.legacy, to);
        }
        let rows = self.store.schedules().await.unwrap_or_default();
        let ids = rows.iter().map(|row| row.id.as_str());
        let ids = ids.chain(of_clients.iter().map(|one| one.view.id.as_str()));
        suggested(error, id, ids)
    }
}

/// As it is recorded: below its queue, as jobs are.
fn target(queue: &QueueName, id: &str) -> String {
    match id.parse() {
        Ok(id) => trail_name(queue, &id),
        Err(_) => queue.to_string(),
    }
}

/// That a BullMQ client has made it, and what can be done.
fn made_by_client(id: &str, queues: &[&str], legacy: bool, to: Use) -> Error {
    let queue = queues.first().copied().unwrap_or_default();
    let (what, places) = (
        match legacy {
            true => "a repeatable",
            false => "a job scheduler",
        },
        queues.iter().map(|queue| word(queue)).collect::<Vec<_>>(),
    );
    let remove = format!(
        "patchbay schedule remove {}",
        arguments_with(&[id], &option("--queue", queue))
    );
    let hold = format!("patchbay queue pause {}", arguments(&[queue]));
    let convert = match legacy {
        true => format!(
            ". To make it a schedule of Patchbay, which can be paused and changed: patchbay queue migrate-repeatables {}",
            arguments(&[queue])
        ),
        false => String::new(),
    };
    let rest = match to {
        Use::Show | Use::Restore => format!(
            "See: patchbay schedule show {}",
            arguments_with(&[id], &option("--queue", queue))
        ),
        Use::Remove => format!("To remove it: {remove}"),
        Use::Pause => format!(
            "BullMQ cannot pause one. To hold all jobs of its queue: {hold}. To remove it: {remove}{convert}"
        ),
        Use::Resume => format!(
            "BullMQ cannot pause one, so there is nothing to resume. If its queue is paused: patchbay queue resume {}{convert}",
            arguments(&[queue])
        ),
        Use::Change => format!(
            "Change it where it was made, with upsertJobScheduler; or remove it, and add a schedule of Patchbay: {remove}{convert}"
        ),
        Use::Run => format!(
            "Only schedules of Patchbay run by hand. To add such a job: patchbay job add {}",
            arguments(&[queue, "NAME"])
        ),
    };
    let message = format!(
        "{} is {what} that a BullMQ client made in {}. {rest}",
        word(id),
        places.join(", ")
    );
    Error::new(Kind::NotFound, "made-by-client", message).with_details(json!({ "queues": queues }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_made_is_refused_with_what_can_be_done() {
        let refused = |legacy, to| made_by_client("daily", &["a b", "mail"], legacy, to).message;
        assert_eq!(
            refused(false, Use::Pause),
            "daily is a job scheduler that a BullMQ client made in 'a b', mail. BullMQ cannot pause one. To hold all jobs of its queue: \
             patchbay queue pause 'a b'. To remove it: patchbay schedule remove daily --queue 'a b'"
        );
        assert!(
            refused(true, Use::Change).ends_with("patchbay queue migrate-repeatables 'a b'"),
            "{}",
            refused(true, Use::Change)
        );
        let dashed = made_by_client("-x", &["-q"], false, Use::Show).message;
        assert!(
            dashed.ends_with("See: patchbay schedule show --queue=-q -- -x"),
            "{dashed}"
        );
    }
}
