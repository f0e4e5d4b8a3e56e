//! Orders to end running jobs, on their way to the workers of this process.

use std::sync::{Arc, OnceLock};

use patchbay_model::{JobId, QueueName};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Created with the first worker.
pub(crate) type Orders = OnceLock<broadcast::Sender<Arc<Kill>>>;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kill {
    pub(crate) queue: QueueName,
    pub(crate) id: JobId,
    pub(crate) by: String,
}
