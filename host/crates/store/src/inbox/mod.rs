//! The inbox: requests of vendors, the events that are known, and what became of each.
//!
//! What a request was, is sealed: this crate only moves ciphertext.

mod adding;
mod counts;
mod judging;
mod pending;
mod reading;
mod selecting;
mod upkeep;
mod watching;

pub use adding::{Added, EventKey, EventKeys, NewInboxRow};
pub use counts::{InboxCount, InboxSource, RepeatCount};
pub use judging::{DeferredCount, InboxRequest, Judgement, Settled};
pub use pending::{InboxBatch, PendingJobs};
pub use reading::{InboxCounted, InboxFilter, InboxReplayRow, InboxRow, InboxStanding, NewReplay};
pub use selecting::{InboxSelection, SelectedRequest};
pub use watching::{
    InboxHour, InboxSilence, InboxWaiting, KnownRejected, MOST_COUNTED, ToldSilence,
};
