//! The stream of finished attempts: written by the settlement of a job, read by whoever copies it to Postgres.

use std::borrow::Cow;
use std::time::Duration;

use patchbay_model::attempt::{AttemptRecord, Body};
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamAutoClaimReply, StreamId, StreamReadReply};
use tokio::time::Instant;

use crate::QueueError;
use crate::connection::Connection;
use crate::scripts::Call;
use crate::streams;
use crate::transaction::APPEND_WHEN_FULL;

const GROUP: &str = "store";
/// Entries of a reader that has been silent this long belong to a dead process. Also how often they are looked for.
const IDLE: Duration = Duration::from_secs(30);
/// How long one read waits for the first entry.
const BLOCK: Duration = Duration::from_secs(2);
/// Beyond the server's own limit on a blocking command, the connection is silent.
const SILENCE_LIMIT: Duration = Duration::from_secs(2);

/// Entries that were set aside and stay.
const MOST_ASIDE: usize = 1_000;

/// Where entries are set aside.
pub(crate) fn aside(key: &str) -> String {
    format!("{key}:unreadable")
}

/// An entry: its id, and the record or why it cannot be read.
pub type Entry = (String, Result<AttemptRecord, String>);

/// The command that appends a record.
pub(crate) fn append(key: &str, record: &AttemptRecord) -> redis::RedisResult<redis::Cmd> {
    let mut command = redis::cmd("XADD");
    command.arg(key).arg(entry(record)?);
    Ok(command)
}

/// The same for a Redis whose memory is full.
pub(crate) fn append_when_full(key: &str, probe_key: &str, record: &AttemptRecord) -> redis::RedisResult<Call> {
    Ok(Call::new(&APPEND_WHEN_FULL, &[key, probe_key]).arg(entry(record)?))
}

/// What follows the key of an `XADD`.
fn entry(record: &AttemptRecord) -> redis::RedisResult<Vec<Cow<'_, str>>> {
    let json = serde_json::to_string(record)
        .map_err(|error| (redis::ErrorKind::Client, "the record cannot be written", error.to_string()))?;
    let mut entry = vec!["*".into(), "r".into(), json.into()];
    // As they are: within the record they would be escaped, and read twice.
    if let Some(body) = &record.body {
        entry.extend(["d".into(), Cow::from(&body.data)]);
        if let Some(result) = &body.result {
            entry.extend(["v".into(), Cow::from(result)]);
        }
    }
    Ok(entry)
}

/// Reads one installation's stream, of all queues. Several readers share the entries.
pub struct AttemptReader {
    pub(crate) connection: Connection,
    key: String,
    consumer: String,
    /// Reads have a connection of their own, kept between reads: nothing waits behind one that waits, nor behind half a megabyte of entries.
    reading: Option<MultiplexedConnection>,
    /// For [`AttemptReader::replace_trace`].
    pub(crate) editing: Option<MultiplexedConnection>,
    /// Own entries that were read and not acknowledged: after a start, or after an error of ours.
    unfinished: bool,
    look_for_dead: Instant,
}

impl AttemptReader {
    pub(crate) fn new(connection: Connection, key: String) -> Self {
        let consumer = format!("pid-{}", std::process::id());
        Self {
            connection,
            key,
            consumer,
            reading: None,
            editing: None,
            unfinished: true,
            look_for_dead: Instant::now(),
        }
    }

    /// Entries that nobody has acknowledged: our own first, then those of dead readers, then new ones. Where there are none,
    /// it gives none, at once or, when it `waits`, after two seconds.
    pub async fn read(&mut self, most: usize, waits: bool) -> Result<Vec<Entry>, QueueError> {
        let read = self.try_read(most, waits).await;
        self.unfinished |= read.is_err();
        Ok(read?.into_iter().map(decode).collect())
    }

    async fn try_read(&mut self, most: usize, waits: bool) -> redis::RedisResult<Vec<StreamId>> {
        // Lost with an error, and opened anew then.
        let mut connection = match self.reading.take() {
            Some(connection) => connection,
            None => self.open().await?,
        };
        let read = self.read_by(&mut connection, most, waits).await?;
        self.reading = Some(connection);
        Ok(read)
    }

    async fn read_by(
        &mut self,
        connection: &mut MultiplexedConnection,
        most: usize,
        waits: bool,
    ) -> redis::RedisResult<Vec<StreamId>> {
        if self.unfinished {
            self.make_group().await?;
            let own = self.read_group(connection, "0", most, None).await?;
            if !own.is_empty() {
                return Ok(own);
            }
            self.unfinished = false;
        }
        if self.look_for_dead <= Instant::now() {
            let mut command = redis::cmd("XAUTOCLAIM");
            command.arg(&self.key).arg(GROUP).arg(&self.consumer).arg(IDLE.as_millis() as u64);
            command.arg("0").arg("COUNT").arg(most);
            let claimed: StreamAutoClaimReply = streams::read(command.query_async(connection).await?)?;
            if !claimed.claimed.is_empty() {
                return Ok(claimed.claimed);
            }
            self.look_for_dead = Instant::now() + IDLE;
        }
        let at_once = self.read_group(connection, ">", most, None).await?;
        if !at_once.is_empty() || !waits {
            return Ok(at_once);
        }
        self.read_group(connection, ">", most, Some(BLOCK)).await
    }

    async fn make_group(&self) -> redis::RedisResult<()> {
        let mut command = redis::cmd("XGROUP");
        command.arg("CREATE").arg(&self.key).arg(GROUP).arg("0").arg("MKSTREAM");
        match command.query_async(&mut self.connection.get()).await {
            Err(error) if error.code() != Some("BUSYGROUP") => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn open(&self) -> redis::RedisResult<MultiplexedConnection> {
        let config = redis::AsyncConnectionConfig::new()
            .set_response_timeout(Some(BLOCK + SILENCE_LIMIT))
            .set_connection_timeout(Some(SILENCE_LIMIT));
        self.connection.client().get_multiplexed_async_connection_with_config(&config).await
    }

    async fn read_group(
        &self,
        connection: &mut MultiplexedConnection,
        from: &str,
        most: usize,
        block: Option<Duration>,
    ) -> redis::RedisResult<Vec<StreamId>> {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(GROUP).arg(&self.consumer).arg("COUNT").arg(most);
        if let Some(block) = block {
            command.arg("BLOCK").arg(block.as_millis() as u64);
        }
        command.arg("STREAMS").arg(&self.key).arg(from);
        let reply: Option<StreamReadReply> = streams::read(command.query_async(connection).await?)?;
        Ok(reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids).collect())
    }

    /// Forgets entries that Postgres has. Without it they are read again.
    pub async fn ack(&mut self, ids: &[String]) -> Result<(), QueueError> {
        let mut pipe = redis::pipe();
        pipe.cmd("XACK").arg(&self.key).arg(GROUP).arg(ids).ignore();
        pipe.cmd("XDEL").arg(&self.key).arg(ids).ignore();
        let acknowledged: redis::RedisResult<()> = pipe.query_async(&mut self.connection.get()).await;
        self.unfinished |= acknowledged.is_err();
        Ok(acknowledged?)
    }

    /// Takes an entry that nobody can read or keep out of the way, into a stream of its own, whose newest thousand stay.
    pub async fn set_aside(&mut self, id: &str, reason: &str) -> Result<(), QueueError> {
        let mut connection = self.connection.get();
        let mut find = redis::cmd("XRANGE");
        find.arg(&self.key).arg(id).arg(id);
        let found: redis::streams::StreamRangeReply = streams::read(find.query_async(&mut connection).await?)?;
        let mut pipe = redis::pipe();
        pipe.atomic();
        for entry in found.ids {
            pipe.cmd("XADD")
                .arg(aside(&self.key))
                .arg("MAXLEN")
                .arg("~")
                .arg(MOST_ASIDE)
                .arg("*")
                .arg("reason")
                .arg(reason);
            for (name, value) in entry.map {
                pipe.arg(name).arg(redis::from_redis_value::<Vec<u8>>(value).unwrap_or_default());
            }
            pipe.ignore();
        }
        pipe.cmd("XACK").arg(&self.key).arg(GROUP).arg(id).ignore();
        pipe.cmd("XDEL").arg(&self.key).arg(id).ignore();
        Ok(pipe.query_async(&mut connection).await?)
    }

    /// What was read could not be kept: read it again.
    pub fn put_back(&mut self) {
        self.unfinished = true;
    }
}

fn decode(mut entry: StreamId) -> Entry {
    let mut field = |name: &str| entry.map.remove(name).and_then(|value| redis::from_redis_value::<String>(value).ok());
    let record = match field("r") {
        Some(json) => serde_json::from_str(&json).map_err(|error| error.to_string()),
        None => Err("it has no record".to_owned()),
    };
    let record = record.map(|record: AttemptRecord| AttemptRecord {
        body: field("d").map(|data| Body { data, result: field("v") }),
        ..record
    });
    (entry.id, record)
}
