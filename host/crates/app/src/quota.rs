//! What is left of rate limits, and what one request has taken from them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// What is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The name of its class.
    pub name: &'static str,
    pub limit: u32,
    pub window: Duration,
    pub remaining: u64,
    /// Until more than `remaining` may be taken.
    pub reset: Duration,
}

/// The quotas from which one request has taken, for the headers of its answer.
#[derive(Debug, Clone, Default)]
pub struct Quotas(Arc<Mutex<Vec<Quota>>>);

tokio::task_local! {
    static OF_THIS_REQUEST: Quotas;
}

impl Quotas {
    /// Notes here what `request` takes.
    pub async fn noting<T>(&self, request: impl Future<Output = T>) -> T {
        OF_THIS_REQUEST.scope(self.clone(), request).await
    }

    /// Those of the request that this task works on, for a part of it that runs in another task.
    pub fn of_this_request() -> Self {
        OF_THIS_REQUEST.try_with(Self::clone).unwrap_or_default()
    }

    /// One per class, as it was last seen.
    pub fn seen(&self) -> Vec<Quota> {
        self.0.lock().clone()
    }

    pub(crate) fn note(quota: Quota) {
        // Nobody waits for an answer where there is no request.
        let _no_request = OF_THIS_REQUEST.try_with(|Self(seen)| {
            let mut seen = seen.lock();
            seen.retain(|known| known.name != quota.name);
            seen.push(quota);
        });
    }
}

/// Whole seconds, rounded up: a client that waits so long does not come too early.
pub fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(remaining: u64) -> Quota {
        Quota {
            name: "test",
            limit: 3,
            window: Duration::from_secs(60),
            remaining,
            reset: Duration::from_secs(20),
        }
    }

    #[tokio::test]
    async fn a_request_knows_what_it_took_also_in_another_task_and_only_the_last_of_each_class() {
        Quotas::note(quota(9));
        let quotas = Quotas::default();
        quotas
            .noting(async {
                Quotas::note(quota(2));
                let inner = Quotas::of_this_request();
                let other = tokio::spawn(async move {
                    inner.noting(async { Quotas::note(quota(1)) }).await;
                });
                other.await.expect("no panic");
            })
            .await;
        assert_eq!(quotas.seen(), [quota(1)]);
    }
}
