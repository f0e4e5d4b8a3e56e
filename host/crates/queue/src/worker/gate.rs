//! Whether a worker may take one job more, beyond its own concurrency. Asked before Redis is: a job that would only wait for a place stays
//! in its queue, where another process may take it.

use std::fmt::Debug;

use futures::FutureExt;
use futures::future::BoxFuture;

/// A limit that several workers share.
pub trait Gate: Debug + Send + Sync + 'static {
    /// A place, if there is one now. Cheap: asked for every job that is not fetched by the settlement of another.
    fn try_enter(&self) -> Option<Box<dyn Pass>>;

    /// A place as soon as there is one. Whoever drops the future leaves the line.
    fn enter(&self) -> BoxFuture<'static, Box<dyn Pass>>;
}

/// A place, until it is dropped.
pub trait Pass: Send + Sync + 'static {
    /// Whether another worker waits for it: then the settlement of this job fetches no next one. Asked once per job.
    fn is_wanted(&self) -> bool;

    /// Waits until no other job runs in this process, and keeps it so until what it gives is dropped. Nothing when another job runs alone
    /// already, or waits to.
    fn alone(&self) -> Option<BoxFuture<'_, Box<dyn Send + '_>>>;
}

/// No limit but the worker's own concurrency.
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
