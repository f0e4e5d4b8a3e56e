//! The contract with guests: its versions, the bindings for what a component may import, and the
//! calls of what it exports, whichever version it was built for.

mod exports;
pub mod v0_1;
pub mod v0_2;
mod version;

use async_trait::async_trait;
use patchbay_model::operation::Answer;
use patchbay_model::outcome::Failure;
use patchbay_model::webhook::Verdict;
use wasmtime::Store;
// For the crates that implement the bindings, because this crate owns wasmtime.
pub use wasmtime::component::{HasData, Linker, Resource};
pub use wasmtime::{Error, Result, format_err};

pub(crate) use exports::exports;
/// These types are the same in every version so far.
pub use v0_1::types;
pub use version::Wit;
pub(crate) use version::interface;

use crate::report::Entry;
use crate::state::State;

/// Links the interfaces of one version that components import.
pub type HostInterfaces = fn(Wit, &mut Linker<State>) -> Result<()>;

/// What a guest returned, not checked yet.
pub(crate) enum Returned {
    /// The result of a job, as JSON.
    Result(String),
    Answer(Answer),
    Verdict(Verdict),
    Passed,
}

#[async_trait]
pub(crate) trait Exports: Send + Sync {
    /// Instantiates the component and calls it. `deadline` is the latest end of the call, Unix
    /// milliseconds.
    async fn run(
        &self,
        store: &mut Store<State>,
        entry: Entry,
        deadline: u64,
    ) -> Result<std::result::Result<Returned, Failure>>;
}

/// Links everything that a component may import, for every accepted version.
pub(crate) fn link(
    linker: &mut Linker<State>,
    drafts: bool,
    interfaces: HostInterfaces,
) -> Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    Wit::ALL
        .into_iter()
        .filter(|wit| drafts || !wit.is_draft())
        .try_for_each(|wit| interfaces(wit, linker))
}
