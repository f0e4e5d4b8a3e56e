//! The network between a host and what it needs.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Forwards to a server; while it is cut, connections end at once, those that were open included.
pub struct Cable {
    pub address: SocketAddr,
    pub cut: watch::Sender<bool>,
}

impl Cable {
    pub async fn to(server: String) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let cut = watch::Sender::new(false);
        let subscribed = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut cut, server) = (subscribed.subscribe(), server.clone());
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
        Ok(Self { address, cut })
    }
}
