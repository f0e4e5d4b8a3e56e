//! A TCP proxy to a server; the test can cut it.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards to a server. While it is cut, new and open connections end at once.
pub struct Cable {
    pub address: SocketAddr,
    pub cut: watch::Sender<bool>,
    /// The target of new connections. Open ones keep theirs, as behind a DNS name that changes.
    pub server: watch::Sender<String>,
    /// A connection on which a client sends this ends. Empty: nothing is refused.
    pub refuses: watch::Sender<&'static str>,
    accepting: JoinHandle<()>,
}

impl Cable {
    pub async fn to(server: String) -> anyhow::Result<Self> {
        Self::at("127.0.0.1:0".parse()?, server).await
    }

    /// At the address of one that refuses, so that its clients reach the server again.
    pub async fn at(address: SocketAddr, server: String) -> anyhow::Result<Self> {
        let server = watch::Sender::new(server);
        let leads_to = server.clone();
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let cut = watch::Sender::new(false);
        let subscribed = cut.clone();
        let refuses = watch::Sender::new("");
        let refused = refuses.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut cut, server) = (subscribed.subscribe(), leads_to.borrow().clone());
                let refused = refused.subscribe();
                tokio::spawn(async move {
                    let forward = async {
                        let mut upstream = TcpStream::connect(server).await?;
                        let (mut asks, mut hears) = client.split();
                        let (mut answers, mut told) = upstream.split();
                        let ask = async {
                            let mut buffer = vec![0; 16 << 10];
                            loop {
                                let length = asks.read(&mut buffer).await?;
                                let (text, sent) = (*refused.borrow(), &buffer[..length]);
                                let parts = || sent.windows(text.len());
                                if !text.is_empty() && parts().any(|part| part == text.as_bytes()) {
                                    return Err(io::ErrorKind::ConnectionReset.into());
                                }
                                if length == 0 {
                                    return told.shutdown().await;
                                }
                                told.write_all(sent).await?;
                            }
                        };
                        let answer = async {
                            tokio::io::copy(&mut answers, &mut hears).await?;
                            hears.shutdown().await
                        };
                        tokio::try_join!(ask, answer)
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
            refuses,
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
