//! Searches the jobs of one state.

use std::time::Duration;

use patchbay_api::answer::Page;
use patchbay_api::jobs::{ScannedJob, SearchJobs};
use patchbay_model::filter::Filter;
use patchbay_model::job::JobState;

use super::Jobs;
use crate::error::Error;
use crate::history::PagedFilter;

/// Redis must also serve the jobs meanwhile.
const SCAN_LIMIT: Duration = Duration::from_secs(1);

impl Jobs {
    pub async fn search(&self, queue: &str, asked: SearchJobs) -> Result<Page<ScannedJob>, Error> {
        let mut asked = PagedFilter::new(asked.0)?;
        let state = job_state(&asked.take("state").unwrap_or_default())?;
        let filter = Filter::from_pairs(asked.filter)?;
        self.search_state(queue, state, &filter, asked.cursor, asked.limit)
            .await
    }

    pub(crate) async fn search_state(
        &self,
        queue: &str,
        state: JobState,
        filter: &Filter,
        cursor: Option<String>,
        limit: usize,
    ) -> Result<Page<ScannedJob>, Error> {
        let queue = self.catalog.known(queue).await?;
        let after = cursor.map(|cursor| cursor.parse()).transpose()?;
        let mut scanned = self
            .broker
            .scan(&queue, state, filter, after, limit, SCAN_LIMIT)
            .await?;
        let failed: Vec<&mut ScannedJob> = scanned
            .jobs
            .iter_mut()
            .filter(|job| job.failed_reason.is_some())
            .collect();
        let redaction = self.plugins.redaction(&queue);
        let ids: Vec<&str> = failed.iter().map(|job| job.id.as_str()).collect();
        let data = self.broker.data_of(&queue, &ids).await?;
        let children = self.broker.children_data(&queue, &ids).await?;
        for ((job, data), children) in failed.into_iter().zip(data).zip(children) {
            let (_, mask) = redaction
                .clone()
                .of_job(&job.id)
                .data_with_others(&data, self.plugins.hidden_values(&children));
            mask.hide(&mut job.failed_reason);
        }
        let next_cursor = scanned.next.map(|cursor| cursor.to_string());
        Ok(Page {
            items: scanned.jobs,
            next_cursor,
            partial: scanned.partial,
        })
    }
}

fn job_state(text: &str) -> Result<JobState, Error> {
    serde_json::from_value(text.into()).map_err(|_| {
        Error::invalid(
            "state: must be waiting, prioritized, delayed, waiting-children, active, completed or failed",
        )
    })
}
