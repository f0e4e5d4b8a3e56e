//! When answers about accounts leave, so that their time does not tell who has one.
//!
//! Some work needs an account: a row is read, a mail is written. However alike both ways are made,
//! a difference of microseconds shows over thousands of requests. So these answers wait for the next
//! multiple of a step after their request began, which hides every difference below one step.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;

/// The step; zero: answers leave at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnswerSteps(Duration);

impl AnswerSteps {
    pub(crate) fn new(step: Duration) -> Self {
        Self(step)
    }

    /// Does the work, and returns its result at the next step.
    pub(crate) async fn hold<T>(self, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let result = work.await;
        self.wait(began).await;
        result
    }

    /// As [`Self::hold`], but a success is returned at once: it tells that it is one.
    pub(crate) async fn hold_refusals<T>(
        self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let result = work.await;
        if result.is_err() {
            self.wait(began).await;
        }
        result
    }

    async fn wait(self, began: Instant) {
        if !self.0.is_zero() {
            tokio::time::sleep_until(began + self.next(began.elapsed())).await;
        }
    }

    /// The first multiple of the step that is not yet over.
    fn next(self, elapsed: Duration) -> Duration {
        let steps = elapsed.as_nanos() / self.0.as_nanos() + 1;
        self.0
            .saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_leave_at_the_next_step_whatever_the_work_took() {
        let steps = AnswerSteps::new(Duration::from_millis(250));
        for (took, leaves) in [(0, 250), (1, 250), (249, 250), (250, 500), (251, 500)] {
            let next = steps.next(Duration::from_millis(took));
            assert_eq!(next.as_millis(), leaves, "{took}");
        }
    }
}
