//! A mail server such as Gmail's: one account, its daily limit, multi-line replies, and what such
//! servers do when they do not behave.
//!
//! It speaks without TLS, for `mail.tls = "none"`, and delivers nothing: it keeps what it takes.
//! Faults are set by [`Smtp::fault`] and the control server, or chosen by a recipient's name:
//! `rcpt-550-5.1.1@…` is refused with that, `end-close@…` gets no answer to its mail
//! ([`Fault::of_recipient`]).

mod control;
mod conversation;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post, put};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use self::state::Shared;
pub use self::state::{Account, Behaviour, Fault, Mail, Stage};

/// A running server; dropping it ends it.
pub struct Smtp {
    pub address: SocketAddr,
    /// The control server's.
    pub control: SocketAddr,
    shared: Arc<Shared>,
    servers: [JoinHandle<()>; 2],
}

impl Drop for Smtp {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

/// Serves one account, and a control server on a free port beside it. Port 0 takes a free one.
pub async fn start(address: SocketAddr, account: Account) -> anyhow::Result<Smtp> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let control_listener = TcpListener::bind((address.ip(), 0)).await?;
    let control = control_listener.local_addr()?;
    let shared = Arc::new(Shared::new(account));
    let app = Router::new()
        .route("/_control/state", get(control::state))
        .route("/_control/behaviour", put(control::behave))
        .route("/_control/password", put(control::set_password))
        .route(
            "/_control/faults",
            post(control::add_fault).delete(control::remove_faults),
        )
        .with_state(Arc::clone(&shared));
    let heard = Arc::clone(&shared);
    let mails = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(conversation::hold(stream, Arc::clone(&heard)));
        }
    });
    let controls = tokio::spawn(async move {
        // It ends only with the task.
        axum::serve(control_listener, app).await.ok();
    });
    Ok(Smtp {
        address,
        control,
        shared,
        servers: [mails, controls],
    })
}

impl Smtp {
    /// A new password, as after a rotation. Connections that are logged in go on.
    pub fn set_password(&self, password: &str) {
        self.shared.lock().account.password = password.to_owned();
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

    /// What was taken, in order.
    pub fn mails(&self) -> Vec<Mail> {
        self.shared.lock().mails.clone()
    }

    /// How many mails it has taken for this recipient.
    pub fn taken_for(&self, recipient: &str) -> usize {
        let state = self.shared.lock();
        let mails = state.mails.iter();
        mails
            .filter(|mail| mail.recipients.iter().any(|one| one == recipient))
            .count()
    }

    /// How often a client got this far, refusals included.
    pub fn reached(&self, stage: Stage) -> usize {
        let state = self.shared.lock();
        state.reached.get(&stage).copied().unwrap_or(0)
    }
}
