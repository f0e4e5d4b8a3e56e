//! The workers as a service: they run by themselves, and end with the drain, before anything else.

use std::sync::Arc;

use async_trait::async_trait;
use patchbay_work::Workers;
use tokio_util::sync::CancellationToken;

use crate::Parts;
use crate::service::{Drained, Service};

/// Takes no jobs from the drain on, and waits for running ones up to their limit. To be listed
/// last.
pub fn service(parts: &Parts) -> Arc<dyn Service> {
    Arc::new(WorkerService(Arc::clone(&parts.workers)))
}

struct WorkerService(Arc<Workers>);

#[async_trait]
impl Service for WorkerService {
    fn name(&self) -> &'static str {
        "workers"
    }

    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        stop.cancelled().await;
        Ok(())
    }

    async fn drain(&self) -> Drained {
        Drained {
            left: self.0.drain().await,
        }
    }
}
