//! Exotel: calls between two numbers, text messages, callbacks and recordings.
//!
//! What the vendor documents is done as documented. Times are those of India, without a zone. Paths
//! without `.json` answer XML. There are no idempotency keys: the same request twice is two calls.

mod answer;
mod api;
mod callback;
mod calls;
mod control;
mod form;
mod play;
mod recording;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::{any, get, post, put};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::breakable::{Breakable, Breaker};

use self::state::Shared;
pub use self::state::{
    Account, Behaviour, Call, Delivery, Encoding, Fault, Message, Misdeed, Operation,
};

/// A running server; dropping it ends it, with callbacks that were not sent yet.
pub struct Exotel {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for Exotel {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Serves one account. Port 0 takes a free one.
pub async fn start(address: SocketAddr, account: Account) -> anyhow::Result<Exotel> {
    // The first one of a process installs it; for later ones that is an error.
    let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let shared = Arc::new(Shared::new(address, account)?);
    let app = Router::new()
        .route("/_control/state", get(control::state))
        .route("/_control/behaviour", put(control::behave))
        .route(
            "/_control/faults",
            post(control::add_fault).delete(control::remove_faults),
        )
        .route("/_control/calls/{sid}/answer", post(control::answer_call))
        .route("/_control/calls/{sid}/end", post(control::end_call))
        .route(
            "/_control/calls/{sid}/callbacks",
            post(control::repeat_callbacks),
        )
        .route("/exotelrecordings/{sid}/{file}", get(recording::recording))
        .fallback(any(api::vendor))
        .with_state(Arc::clone(&shared));
    let service = app.into_make_service_with_connect_info::<Breaker>();
    let server = tokio::spawn(async move {
        // It ends only with the task.
        axum::serve(Breakable(listener), service).await.ok();
    });
    Ok(Exotel {
        address,
        shared,
        server,
    })
}

impl Exotel {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn account(&self) -> Account {
        self.shared.lock().account.clone()
    }

    /// New credentials, as after a rotation at the vendor.
    pub fn set_token(&self, token: &str) {
        self.shared.lock().account.token = token.to_owned();
    }

    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.lock().behaviour);
    }

    pub fn fault(&self, fault: Fault) {
        self.shared.lock().faults.push(fault);
    }

    pub fn remove_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// In the order in which they were placed.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.lock().calls.clone()
    }

    pub fn messages(&self) -> Vec<Message> {
        self.shared.lock().messages.clone()
    }

    /// Callbacks that were sent, with what was answered.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.lock().deliveries.clone()
    }

    /// How often this was asked for, refused requests included.
    pub fn asked(&self, operation: Operation) -> usize {
        let state = self.shared.lock();
        state.asked.get(&operation).copied().unwrap_or(0)
    }

    /// Leg 2 has answered. Not for calls that play by themselves.
    pub fn answer_call(&self, sid: &str) -> bool {
        self.shared.answer_call(sid)
    }

    /// The call ends with this status.
    pub fn end_call(&self, sid: &str, status: &str) -> bool {
        self.shared.end_call(sid, status)
    }

    /// All callbacks of the call once more, however old it is.
    pub fn repeat_callbacks(&self, sid: &str) -> bool {
        self.shared.repeat_callbacks(sid)
    }
}
