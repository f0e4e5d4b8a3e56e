//! The host as one guest sees it: implements the generated `Host` traits of every version.

use std::any::Any;
use std::sync::Arc;

use patchbay_model::capability::CapabilityError;
use patchbay_runtime::State;
use patchbay_runtime::wit::{self, HasData, types};

use crate::HostCall;
use crate::call::{Denied, Gate, GuestCall};

/// Result of a host function. The outer error is a trap or a fault of the host.
pub(crate) type HostResult<T> = wit::Result<T>;
pub(crate) type Answer<T> = HostResult<Result<T, types::CapabilityError>>;

pub(crate) struct Guest<'a>(pub(crate) &'a mut State);

/// [`Guest`] as linkers need it.
pub(crate) struct Linked;

impl HasData for Linked {
    type Data<'a> = Guest<'a>;
}

impl Guest<'_> {
    /// Absent when nothing outside is reachable.
    pub(crate) fn call(&self) -> Option<Arc<GuestCall>> {
        let context: Arc<dyn Any + Send + Sync> = Arc::clone(self.0.context()?) as _;
        context.downcast().ok()
    }

    /// For host calls that are answered from memory: on the guest's own thread, and not measured.
    pub(crate) fn at_once<T, E: From<Denied>>(
        &self,
        act: impl FnOnce(&Gate) -> Result<T, E>,
    ) -> Result<T, E> {
        let call = self.call().ok_or_else(Denied::nothing_outside)?;
        act(&call.unmeasured())
    }

    /// A host call that reaches outside: on the host's threads, measured and traced.
    pub(crate) async fn through<T, E, F>(
        &mut self,
        kind: HostCall,
        act: impl FnOnce(Gate) -> F + Send + 'static,
    ) -> HostResult<Result<T, E>>
    where
        T: Send + 'static,
        E: From<Denied> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.outside(move |call| call.through(kind, act)).await
    }

    /// As [`Self::through`], for calls that measure themselves.
    pub(crate) async fn outside<T, E, F>(
        &mut self,
        act: impl FnOnce(Arc<GuestCall>) -> F,
    ) -> HostResult<Result<T, E>>
    where
        T: Send + 'static,
        E: From<Denied> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let Some(call) = self.call() else {
            return Ok(Err(Denied::nothing_outside().into()));
        };
        if call.call.is_verification {
            return Ok(Err(Denied::verification().into()));
        }
        self.0.outside(act(call)).await
    }
}

pub(crate) fn error(error: CapabilityError) -> types::CapabilityError {
    types::CapabilityError {
        code: error.code.into(),
        message: error.message,
        retryable: error.retryable,
    }
}
