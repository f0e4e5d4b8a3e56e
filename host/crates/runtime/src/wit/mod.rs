//! The contract with guests: its versions, what a component may import, and what it exports, whichever version it was built for.

mod v0_1;
mod v0_2;
mod version;

use async_trait::async_trait;
use patchbay_model::operation::Answer;
use patchbay_model::outcome::Failure;
use wasmtime::Store;
use wasmtime::component::{InstancePre, Linker};

pub use version::Wit;
pub(crate) use version::interface;

use crate::report::Entry;
use crate::state::State;

/// What a guest gave back, not checked yet.
pub(crate) enum Returned {
    /// The result of a job: JSON.
    Result(String),
    /// The answer of an operation.
    Answer(Answer),
    /// The self-test passed.
    Passed,
}

/// One component, ready to be instantiated.
#[async_trait]
pub(crate) trait Exports: Send + Sync {
    /// Instantiates and calls. `deadline`: when the call ends at the latest, Unix milliseconds.
    async fn run(
        &self,
        store: &mut Store<State>,
        entry: Entry,
        deadline: u64,
    ) -> wasmtime::Result<Result<Returned, Failure>>;
}

/// Everything that a component may import, of every version that is accepted.
pub(crate) fn link(linker: &mut Linker<State>, drafts: bool) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    v0_1::link(linker)?;
    if drafts { v0_2::link(linker) } else { Ok(()) }
}

/// The one place where versions part.
pub(crate) fn exports(wit: Wit, linked: InstancePre<State>) -> Box<dyn Exports> {
    match wit {
        Wit::V0_1 => Box::new(v0_1::Component::new(linked)),
        Wit::V0_2 => Box::new(v0_2::Component::new(linked)),
    }
}
