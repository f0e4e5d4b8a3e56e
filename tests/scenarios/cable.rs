//! A TCP proxy to a server; the test can cut it.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards to a server. While it is cut, new and open connections end at once.
pub struct Cable {
    pub address: SocketAddr,
    pub cut: watch::Sender<bool>,
    /// The target of new connections. Open ones keep theirs, as behind a DNS name that changes.
    pub server: watch::Sender<String>,
    accepting: JoinHandle<()>,
}

impl Cable {
    pub async fn to(server: String) -> anyhow::Result<Self> {
        let server = watch::Sender::new(server);
        let leads_to = server.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let cut = watch::Sender::new(false);
        let subscribed = cut.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut cut, server) = (subscribed.subscribe(), leads_to.borrow().clone());
                tokio::spawn(async move {
                    let forward = async {
                        let mut upstream = TcpStream::connect(server).await?;
                        tokio::io::copy_bidirectional(&mut client, &mut upstream).await
                    };
                    tokio::select! {
                        biased;
                        _ = cut.wait_for(|cut| *cut) => {}
                        _ = forward => {}
                    }
                });
            }
        });
        Ok(Self {
            address,
            cut,
            server,
            accepting,
        })
    }

    /// Cuts it for good: from now on, connections are refused.
    pub async fn refuse(self) {
        self.cut.send_replace(true);
        self.accepting.abort();
        // The listener is dropped with the task.
        self.accepting.await.ok();
    }
}
