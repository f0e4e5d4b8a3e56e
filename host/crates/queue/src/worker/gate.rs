//! Decides whether a worker may take one more job, beyond its own concurrency. It is asked before
//! Redis is, so that a job which would only wait for a slot stays in its queue, where another
//! process may take it.

use std::fmt::Debug;

use futures::FutureExt;
use futures::future::BoxFuture;

/// A limit that several workers share.
pub trait Gate: Debug + Send + Sync + 'static {
    /// A slot, if one is free now. Must be cheap: it is called for every job that is not fetched by
    /// the settlement of another.
    fn try_enter(&self) -> Option<Box<dyn Pass>>;

    /// Waits for a slot. Dropping the future leaves the line.
    fn enter(&self) -> BoxFuture<'static, Box<dyn Pass>>;
}

/// Holds a slot until it is dropped.
pub trait Pass: Send + Sync + 'static {
    /// Whether another worker waits for this slot. If so, the settlement of this job fetches no
    /// next one. Called once per job.
    fn is_wanted(&self) -> bool;

    /// Waits until no other job runs in this process, and keeps it so until the returned value is
    /// dropped. `None` if another job already runs alone or waits to.
    fn alone(&self) -> Option<BoxFuture<'_, Box<dyn Send + '_>>>;
}

/// No limit except the worker's own concurrency.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

impl Gate for Unlimited {
    fn try_enter(&self) -> Option<Box<dyn Pass>> {
        Some(Box::new(Self))
    }

    fn enter(&self) -> BoxFuture<'static, Box<dyn Pass>> {
        std::future::ready(Box::new(Self) as Box<dyn Pass>).boxed()
    }
}

impl Pass for Unlimited {
    fn is_wanted(&self) -> bool {
        false
    }

    fn alone(&self) -> Option<BoxFuture<'_, Box<dyn Send + '_>>> {
        Some(std::future::ready(Box::new(()) as Box<dyn Send + '_>).boxed())
    }
}
