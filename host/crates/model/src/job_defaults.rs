//! Fills options that a job's producer left out, from the manifest of the queue's owner. Never
//! changes what the producer set.

use crate::job::NewJob;
use crate::manifest::QueueSpec;
use crate::retry::Backoff;

impl QueueSpec {
    /// Attempts and backoff depend on the queue, priority and expiry on the job name. An expiry
    /// counts from the time at which the job may start.
    pub fn fill_defaults(&self, job: &mut NewJob, now_ms: u64) {
        job.attempts = job.attempts.or(self.attempts);
        job.backoff = job.backoff.or_else(|| {
            self.backoff
                .as_ref()
                .map(|own| Backoff::from(own).with_explicit_maximum())
        });
        let Some(kind) = self.jobs.iter().find(|kind| kind.name == job.name) else {
            return;
        };
        // A producer may set 0 on purpose: before all jobs that have a priority.
        job.priority = job.priority.or(kind.priority);
        job.expires_at_ms = job.expires_at_ms.or_else(|| {
            let delay_ms = job.delay.map_or(0, |delay| delay.as_millis() as u64);
            kind.expires_after_ms
                .map(|after| now_ms.saturating_add(delay_ms).saturating_add(after))
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::manifest::Manifest;

    use super::*;

    #[test]
    fn the_manifest_fills_what_the_producer_left_out_and_nothing_else() {
        let text = "name = \"filling\"\nversion = \"1.0.0\"\nwit = \"0.1\"\n[[queues]]\nname = \"q\"\nattempts = 4\n\
                    [[queues.jobs]]\nname = \"slow\"\npriority = 9\nexpires_after_ms = 100\n";
        let manifest = Manifest::from_toml(text, |_| Err("no files".into())).expect("valid");
        let spec = &manifest.queues[0];
        let mut job = NewJob::new(spec.name.clone(), "slow", "{}");
        job.delay = Some(Duration::from_millis(50));
        spec.fill_defaults(&mut job, 1_000);
        assert_eq!(
            (job.attempts, job.priority, job.expires_at_ms),
            (Some(4), Some(9), Some(1_150))
        );
        let mut own = NewJob {
            priority: Some(2),
            attempts: Some(1),
            expires_at_ms: Some(7),
            ..job.clone()
        };
        spec.fill_defaults(&mut own, 1_000);
        assert_eq!(
            (own.attempts, own.priority, own.expires_at_ms),
            (Some(1), Some(2), Some(7))
        );
        let mut other = NewJob::new(spec.name.clone(), "other", "{}");
        spec.fill_defaults(&mut other, 1_000);
        assert_eq!(
            (other.attempts, other.priority, other.expires_at_ms),
            (Some(4), None, None)
        );
    }
}
