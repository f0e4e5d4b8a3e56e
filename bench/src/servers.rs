//! Outside servers for what is measured: HTTP, and mail that is caught. On a thread of their own,
//! so that neither side's client shares one with them.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use patchbay::dev::MailCatcher;

/// Where they listen; they end with this process.
pub struct Servers {
    pub http: SocketAddr,
    pub mail: SocketAddr,
}

impl Servers {
    /// HTTP answers everything with `body`; mails go to `dir`.
    pub fn start(body: String, dir: &Path) -> anyhow::Result<Self> {
        let dir = dir.to_owned();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || -> anyhow::Result<()> {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(async {
                    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
                    let mail = MailCatcher::start(&dir).await?;
                    tell.send(Self {
                        http: listener.local_addr()?,
                        mail: mail.address,
                    })?;
                    let answer = move || std::future::ready(body.clone());
                    Ok(axum::serve(listener, Router::new().fallback(get(answer))).await?)
                })
        });
        told.recv().context("the servers do not start")
    }

    /// For a host whose mail is caught.
    pub fn mail_settings(&self) -> [(&'static str, String); 4] {
        [
            ("PATCHBAY_MAIL_HOST", self.mail.ip().to_string()),
            ("PATCHBAY_MAIL_PORT", self.mail.port().to_string()),
            ("PATCHBAY_MAIL_TLS", "none".into()),
            ("PATCHBAY_MAIL_FROM", "bench@example.org".into()),
        ]
    }
}
