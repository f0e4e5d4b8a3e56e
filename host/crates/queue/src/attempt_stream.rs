//! The Redis stream of finished attempts. The settlement of a job writes to it; the recorder reads
//! it and copies it to Postgres.

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
/// If a reader is silent for this long, its process is dead and its entries are taken over. Also
/// the interval of that check.
const IDLE: Duration = Duration::from_secs(30);
/// How long one read blocks for the first entry.
const BLOCK: Duration = Duration::from_secs(2);
/// If a reply is late by more than this beyond the blocking time, the connection is dead.
const SILENCE_LIMIT: Duration = Duration::from_secs(2);

/// How many set-aside entries are kept.
const MOST_ASIDE: usize = 1_000;

/// Key of the stream for set-aside entries.
pub(crate) fn aside(key: &str) -> String {
    format!("{key}:unreadable")
}

/// An entry: its id, and its record or why the record cannot be read.
pub type Entry = (String, Result<AttemptRecord, String>);

pub(crate) fn append(key: &str, record: &AttemptRecord) -> redis::RedisResult<redis::Cmd> {
    let mut command = redis::cmd("XADD");
    command.arg(key).arg(entry(record)?);
    Ok(command)
}

/// Like [`append`], for a Redis whose memory is full.
pub(crate) fn append_when_full(
    key: &str,
    probe_key: &str,
    record: &AttemptRecord,
) -> redis::RedisResult<Call> {
    Ok(Call::new(&APPEND_WHEN_FULL, &[key, probe_key]).arg(entry(record)?))
}

/// The arguments that follow the key in `XADD`.
fn entry(record: &AttemptRecord) -> redis::RedisResult<Vec<Cow<'_, str>>> {
    let json = serde_json::to_string(record).map_err(|error| {
        (
            redis::ErrorKind::Client,
            "the record cannot be written",
            error.to_string(),
        )
    })?;
    let mut entry = vec!["*".into(), "r".into(), json.into()];
    // Data and result are fields of their own: inside the record's JSON they would be escaped, and
    // parsed twice.
    if let Some(body) = &record.body {
        entry.extend(["d".into(), Cow::from(&body.data)]);
        if let Some(result) = &body.result {
            entry.extend(["v".into(), Cow::from(result)]);
        }
    }
    Ok(entry)
}

/// Reads the stream of one installation, for all queues. Several readers share the entries.
pub struct AttemptReader {
    pub(crate) connection: Connection,
    key: String,
    consumer: String,
    /// Reads use their own connection, kept between reads, so that no other command waits behind a
    /// blocking read or behind half a megabyte of entries.
    reading: Option<MultiplexedConnection>,
    /// Connection for [`AttemptReader::replace_trace`].
    pub(crate) editing: Option<MultiplexedConnection>,
    /// Whether this reader may have entries that it read and did not acknowledge: after a start, or
    /// after an error.
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

    /// Reads entries that nobody has acknowledged: this reader's own first, then those of dead
    /// readers, then new ones. If there are none, returns an empty list: at once, or after two
    /// seconds when `waits` is set.
    pub async fn read(&mut self, most: usize, waits: bool) -> Result<Vec<Entry>, QueueError> {
        let read = self.try_read(most, waits).await;
        self.unfinished |= read.is_err();
        Ok(read?.into_iter().map(decode).collect())
    }

    async fn try_read(&mut self, most: usize, waits: bool) -> redis::RedisResult<Vec<StreamId>> {
        // On an error the connection is dropped, and the next read opens a new one.
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
            command
                .arg(&self.key)
                .arg(GROUP)
                .arg(&self.consumer)
                .arg(IDLE.as_millis() as u64);
            command.arg("0").arg("COUNT").arg(most);
            let claimed: StreamAutoClaimReply =
                streams::read(command.query_async(connection).await?)?;
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
        command
            .arg("CREATE")
            .arg(&self.key)
            .arg(GROUP)
            .arg("0")
            .arg("MKSTREAM");
        match command.query_async(&mut self.connection.get()).await {
            Err(error) if error.code() != Some("BUSYGROUP") => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn open(&self) -> redis::RedisResult<MultiplexedConnection> {
        let config = redis::AsyncConnectionConfig::new()
            .set_response_timeout(Some(BLOCK + SILENCE_LIMIT))
            .set_connection_timeout(Some(SILENCE_LIMIT));
        self.connection
            .client()
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    async fn read_group(
        &self,
        connection: &mut MultiplexedConnection,
        from: &str,
        most: usize,
        block: Option<Duration>,
    ) -> redis::RedisResult<Vec<StreamId>> {
        let mut command = redis::cmd("XREADGROUP");
        command
            .arg("GROUP")
            .arg(GROUP)
            .arg(&self.consumer)
            .arg("COUNT")
            .arg(most);
        if let Some(block) = block {
            command.arg("BLOCK").arg(block.as_millis() as u64);
        }
        command.arg("STREAMS").arg(&self.key).arg(from);
        let reply: Option<StreamReadReply> = streams::read(command.query_async(connection).await?)?;
        Ok(reply
            .into_iter()
            .flat_map(|reply| reply.keys)
            .flat_map(|key| key.ids)
            .collect())
    }

    /// Deletes entries that Postgres has. Entries that are not acknowledged are read again.
    pub async fn ack(&mut self, ids: &[String]) -> Result<(), QueueError> {
        let mut pipe = redis::pipe();
        pipe.cmd("XACK").arg(&self.key).arg(GROUP).arg(ids).ignore();
        pipe.cmd("XDEL").arg(&self.key).arg(ids).ignore();
        let acknowledged: redis::RedisResult<()> =
            pipe.query_async(&mut self.connection.get()).await;
        self.unfinished |= acknowledged.is_err();
        Ok(acknowledged?)
    }

    /// Moves an entry that cannot be read or stored to a separate stream, which keeps about the
    /// newest thousand.
    pub async fn set_aside(&mut self, id: &str, reason: &str) -> Result<(), QueueError> {
        let mut connection = self.connection.get();
        let mut find = redis::cmd("XRANGE");
        find.arg(&self.key).arg(id).arg(id);
        let found: redis::streams::StreamRangeReply =
            streams::read(find.query_async(&mut connection).await?)?;
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
                pipe.arg(name)
                    .arg(redis::from_redis_value::<Vec<u8>>(value).unwrap_or_default());
            }
            pipe.ignore();
        }
        pipe.cmd("XACK").arg(&self.key).arg(GROUP).arg(id).ignore();
        pipe.cmd("XDEL").arg(&self.key).arg(id).ignore();
        Ok(pipe.query_async(&mut connection).await?)
    }

    /// Reads the entries again that were read but could not be stored.
    pub fn put_back(&mut self) {
        self.unfinished = true;
    }
}

fn decode(mut entry: StreamId) -> Entry {
    let mut field = |name: &str| {
        entry
            .map
            .remove(name)
            .and_then(|value| redis::from_redis_value::<String>(value).ok())
    };
    let record = match field("r") {
        Some(json) => serde_json::from_str(&json).map_err(|error| error.to_string()),
        None => Err("the entry has no record".to_owned()),
    };
    let record = record.map(|record: AttemptRecord| AttemptRecord {
        body: field("d").map(|data| Body {
            data,
            result: field("v"),
        }),
        ..record
    });
    (entry.id, record)
}
