//! What sends requests: as little as HTTP needs, on one thread of its own, so that the load takes
//! little of the processors.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A timer wakes up so late at most; what comes later is the other side's fault.
const TIMER: Duration = Duration::from_millis(2);
/// Connections of paced requests.
const PACED_CONNECTIONS: usize = 64;

/// A connection that is kept open, with one request under way at most.
pub struct Connection {
    side: SocketAddr,
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// One request that was answered.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    pub status: u16,
    pub ms: f64,
}

impl Connection {
    pub async fn open(side: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(side).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            side,
            stream,
            buffer: vec![0; 16 << 10],
        })
    }

    /// Sends a request and reads its answer; gives the status.
    pub async fn ask(&mut self, request: &[u8]) -> anyhow::Result<u16> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            ensure!(read > 0, "{} has closed a connection", self.side);
            filled += read;
            if let Some(status) = status_of_whole(&self.buffer[..filled])? {
                return Ok(status);
            }
        }
    }
}

/// The status, once the answer is whole.
fn status_of_whole(answer: &[u8]) -> anyhow::Result<Option<u16>> {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&answer[..head])?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    });
    if answer.len() < head + 4 + length.context("a content-length")? {
        return Ok(None);
    }
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok(Some(status.context("a status")?))
}

/// Runs a load on a thread of its own.
pub async fn apart<T: Send + 'static>(
    load: impl FnOnce() -> Pin<Box<dyn Future<Output = anyhow::Result<T>>>> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(load())
    })
    .await?
}

/// One request after the other on each of so many connections; `next` makes them.
pub async fn as_fast_as_possible(
    side: SocketAddr,
    connections: usize,
    lasts: Duration,
    next: impl Fn() -> Vec<u8> + Clone + Send + 'static,
) -> anyhow::Result<Vec<Answered>> {
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let (mut connection, next) = (Connection::open(side).await?, next.clone());
        clients.spawn(async move {
            let until = Instant::now() + lasts;
            let mut answered = Vec::new();
            while Instant::now() < until {
                let request = next();
                let started = Instant::now();
                let status = connection.ask(&request).await?;
                let ms = started.elapsed().as_secs_f64() * 1e3;
                answered.push(Answered { status, ms });
            }
            anyhow::Ok(answered)
        });
    }
    let mut all = Vec::new();
    while let Some(client) = clients.join_next().await {
        all.extend(client??);
    }
    ensure!(!all.is_empty(), "{side} has answered nothing");
    Ok(all)
}

/// So many requests per second, whether the others are answered or not. The time of each counts from
/// when it was due.
pub async fn paced(
    side: SocketAddr,
    per_second: u32,
    lasts: Duration,
    next: impl Fn() -> Vec<u8> + Clone + Send + 'static,
) -> anyhow::Result<Vec<Answered>> {
    let (free, mut idle) = mpsc::unbounded_channel();
    for _ in 0..PACED_CONNECTIONS {
        free.send(Connection::open(side).await?).ok();
    }
    let pause = Duration::from_secs(1) / per_second;
    let (started, mut under_way) = (Instant::now(), JoinSet::new());
    let mut due = started;
    while due < started + lasts {
        tokio::time::sleep_until(due.into()).await;
        let began = Instant::now().min(due + TIMER);
        let mut connection: Connection = idle.recv().await.context("connections")?;
        let (free, request) = (free.clone(), next());
        under_way.spawn(async move {
            let status = connection.ask(&request).await?;
            free.send(connection).ok();
            anyhow::Ok(Answered {
                status,
                ms: began.elapsed().as_secs_f64() * 1e3,
            })
        });
        due += pause;
    }
    let mut all = Vec::new();
    while let Some(one) = under_way.join_next().await {
        all.push(one??);
    }
    Ok(all)
}
