//! Requests to webhooks that wait in Redis until Postgres takes them: one bounded stream of sealed
//! entries for all hosts. It never trims: where it is full, an entry is refused.

use std::sync::LazyLock;
use std::time::Duration;

use redis::Script;
use redis::streams::StreamRangeReply;

use crate::scripts::Call;
use crate::{Broker, QueueError};

/// Entries, and bytes in them.
const MAX_ENTRIES: u64 = 100_000;
const MAX_BYTES: u64 = 256 << 20;
/// Of these, what strangers may have sent takes at most this part, and one network of theirs that one: vendors who prove
/// who they are find room.
const OF_STRANGERS: u64 = 2;
const OF_NETWORK: u64 = 16;
/// The least that an entry of a stranger counts as, so that many small ones do not take all entries.
const LEAST_BYTES: u64 = MAX_BYTES / MAX_ENTRIES;
/// A vendor waits for the answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_000);

/// `KEYS`: the stream, the number of bytes in it, and those of strangers by network (under `*`: of all). `ARGV`: the entry,
/// the limits, and of a stranger's: what it counts as, the limits of strangers and of a network, and the network. Whether it was added.
static ADD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"local bytes = tonumber(redis.call("GET", KEYS[2]) or "") or 0
        if redis.call("XLEN", KEYS[1]) >= tonumber(ARGV[2]) or bytes + #ARGV[1] > tonumber(ARGV[3]) then return 0 end
        if ARGV[4] then
            local counts = tonumber(ARGV[4])
            local taken = function(field) return (tonumber(redis.call("HGET", KEYS[3], field) or "") or 0) + counts end
            if taken("*") > tonumber(ARGV[5]) or taken(ARGV[7]) > tonumber(ARGV[6]) then return 0 end
            redis.call("HINCRBY", KEYS[3], "*", counts)
            redis.call("HINCRBY", KEYS[3], ARGV[7], counts)
            redis.call("XADD", KEYS[1], "*", "e", ARGV[1], "n", ARGV[7])
        else
            redis.call("XADD", KEYS[1], "*", "e", ARGV[1])
        end
        redis.call("INCRBY", KEYS[2], #ARGV[1])
        return 1"#,
    )
});

/// `KEYS` as in [`ADD`]. `ARGV`: ids of entries, each followed by its bytes, what it counts as (0: no stranger's), and the
/// network.
static REMOVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"for place = 1, #ARGV, 4 do
            if redis.call("XDEL", KEYS[1], ARGV[place]) == 1 then
                redis.call("INCRBY", KEYS[2], -tonumber(ARGV[place + 1]))
                local counts = tonumber(ARGV[place + 2])
                if counts > 0 then
                    redis.call("HINCRBY", KEYS[3], "*", -counts)
                    if redis.call("HINCRBY", KEYS[3], ARGV[place + 3], -counts) <= 0 then redis.call("HDEL", KEYS[3], ARGV[place + 3]) end
                end
            end
        end
        if redis.call("XLEN", KEYS[1]) == 0 then redis.call("DEL", KEYS[1], KEYS[2], KEYS[3]) end"#,
    )
});

/// `KEYS` as in [`ADD`]. Entries, bytes, and the id of the oldest entry without its content.
static STANDING: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"local first = redis.call("XRANGE", KEYS[1], "-", "+", "COUNT", 1)[1]
        return { redis.call("XLEN", KEYS[1]), tonumber(redis.call("GET", KEYS[2]) or "") or 0, first and first[1] or "" }"#,
    )
});

/// What waits in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpillStanding {
    pub entries: u64,
    pub bytes: u64,
    /// How long the oldest has waited.
    pub oldest: Duration,
}

/// An entry that waits.
#[derive(Debug, Clone)]
pub struct SpilledEntry {
    pub id: String,
    pub content: Vec<u8>,
    /// Whose it is, if it may be a stranger's.
    network: Option<String>,
}

/// What an entry of a stranger counts as.
fn counts_as(bytes: usize) -> u64 {
    (bytes as u64).max(LEAST_BYTES)
}

impl Broker {
    /// Adds an entry; false where there is no room for it. `stranger`: the network of a sender that has not proved to the host
    /// who it is.
    pub async fn spill(&self, content: &[u8], stranger: Option<&str>) -> Result<bool, QueueError> {
        let add = async {
            self.memory.refuse_when_full().await?;
            let mut call = Call::new(&ADD, &self.spill_keys())
                .arg(content)
                .arg(MAX_ENTRIES)
                .arg(MAX_BYTES);
            if let Some(network) = stranger {
                call = call
                    .arg(counts_as(content.len()))
                    .arg(MAX_BYTES / OF_STRANGERS)
                    .arg(MAX_BYTES / OF_NETWORK)
                    .arg(network);
            }
            let added: u64 = call.invoke(&mut self.connection.get()).await?;
            Ok(added == 1)
        };
        tokio::time::timeout(ANSWER_WITHIN, add)
            .await
            .unwrap_or(Ok(false))
    }

    /// The oldest entries, or the oldest after the one with this id.
    pub async fn spilled(
        &self,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<SpilledEntry>, QueueError> {
        let [stream, ..] = self.spill_keys();
        let mut command = redis::cmd("XRANGE");
        let begin = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
        command
            .arg(stream)
            .arg(begin)
            .arg("+")
            .arg("COUNT")
            .arg(count);
        let reply: StreamRangeReply = command.query_async(&mut self.connection.get()).await?;
        let entry = |entry: redis::streams::StreamId| SpilledEntry {
            content: entry
                .map
                .get("e")
                .and_then(|value| redis::from_redis_value::<Vec<u8>>(value.clone()).ok())
                .unwrap_or_default(),
            network: entry.get("n"),
            id: entry.id,
        };
        Ok(reply.ids.into_iter().map(entry).collect())
    }

    /// Removes entries that Postgres has.
    pub async fn remove_spilled(&self, entries: &[SpilledEntry]) -> Result<(), QueueError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut call = Call::new(&REMOVE, &self.spill_keys());
        for entry in entries {
            let counts = match entry.network {
                Some(_) => counts_as(entry.content.len()),
                None => 0,
            };
            call = call
                .arg(&entry.id)
                .arg(entry.content.len())
                .arg(counts)
                .arg(entry.network.as_deref().unwrap_or_default());
        }
        let _none: Option<u64> = call.invoke(&mut self.connection.get()).await?;
        Ok(())
    }

    /// How many entries wait, and their bytes.
    pub async fn spill_size(&self) -> Result<(u64, u64), QueueError> {
        let [stream, bytes, _] = self.spill_keys();
        let mut pipe = redis::pipe();
        pipe.xlen(stream).get(bytes);
        let (entries, bytes): (u64, Option<u64>) =
            pipe.query_async(&mut self.connection.get()).await?;
        Ok((entries, bytes.unwrap_or_default()))
    }

    /// What waits, and since when; `None` where nothing does.
    pub async fn spill_standing(&self) -> Result<Option<SpillStanding>, QueueError> {
        let call = Call::new(&STANDING, &self.spill_keys());
        let (entries, bytes, oldest): (u64, u64, String) =
            call.invoke(&mut self.connection.get()).await?;
        let added_ms = oldest.split('-').next().and_then(|ms| ms.parse().ok());
        Ok(added_ms.map(|added_ms: u64| SpillStanding {
            entries,
            bytes,
            oldest: Duration::from_millis(self.now_ms().saturating_sub(added_ms)),
        }))
    }

    fn spill_keys(&self) -> [String; 3] {
        let own = &self.config.own_prefix;
        [
            format!("{own}:inbox-spill"),
            format!("{own}:inbox-spill-bytes"),
            format!("{own}:inbox-spill-strangers"),
        ]
    }
}
