//! The shared connection to Redis. It is replaced when it goes silent or when its server no longer
//! serves.
//!
//! The client library reconnects when a connection breaks. It does not when the connection merely
//! stops answering (as behind a dead router), nor when its server becomes a replica (as in a
//! failover behind one name). Then every call would time out or be refused for as long as the
//! system's TCP keeps the connection. So one task checks it every second with a write that changes
//! nothing; the task ends with the last clone.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{RedisResult, Value};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::access::{Access, RedisConfig};
use crate::clock::Clock;
use crate::{QueueError, Trouble, rights};

/// A later reply counts as none, because callers need an answer before their own time limits.
const RESPONSE_LIMIT: Duration = Duration::from_secs(5);
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// A connection that does not answer for this long is silent. Redis answers in microseconds, under
/// load in milliseconds. The value is below the time limit of health probes, so that a probe
/// replaces the connection too.
const SILENCE_LIMIT: Duration = Duration::from_secs(1);
/// Interval of checks while Redis serves. Bounds how late a silent connection or a failover is
/// noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Interval of checks while Redis does not serve. Bounds how late the recovery is noticed.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How many checks pass between two surveys, which ask for what only an operator changes.
const LOOKS_PER_SURVEY: u32 = 5;

/// Interval at which the rights of Redis's user are checked, because one check sends 80 commands.
const RIGHTS_EVERY: Duration = Duration::from_secs(10);

/// More than NTP ever leaves. A host takes no jobs while its clock differs more from Redis's.
pub const MAX_CLOCK_SKEW_MS: u64 = 5_000;

/// The state of this process's connection to Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Why Redis cannot serve, or must not be trusted with jobs.
    pub trouble: Option<Trouble>,
    /// This machine's clock minus Redis's, in milliseconds; `None` until Redis has been asked.
    pub skew_ms: Option<i64>,
    /// Duration of the last check; `None` if there was no answer.
    pub round_trip: Option<Duration>,
}

impl Standing {
    /// Whether Redis accepts commands.
    pub fn serves(&self) -> bool {
        self.trouble.as_ref().is_none_or(Trouble::serves)
    }

    /// Whether this machine's clock is so wrong that this process takes no jobs.
    pub fn is_skewed(&self) -> bool {
        self.skew_ms
            .is_some_and(|skew| skew.unsigned_abs() > MAX_CLOCK_SKEW_MS)
    }

    /// Whether workers take jobs. They also do while Redis is away, because their own requests
    /// notice its return sooner.
    pub(crate) fn takes_jobs(&self) -> bool {
        (self.serves() || self.trouble == Some(Trouble::Away)) && !self.is_skewed()
    }
}

/// Cheap to clone. All clones share the connection.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Shared>);

struct Shared {
    access: Access,
    config: RedisConfig,
    current: ArcSwap<Live>,
    replaced: watch::Sender<u64>,
    standing: watch::Sender<Standing>,
    clock: Clock,
    /// This key is never written.
    probe_key: String,
    unfit: Mutex<Option<Trouble>>,
    /// When the rights of Redis's user were last checked, and which essential ones were missing.
    rights: tokio::sync::Mutex<(Option<Instant>, Option<Trouble>)>,
    looks: AtomicU32,
    replacing: tokio::sync::Mutex<()>,
}

struct Live {
    client: redis::Client,
    manager: ConnectionManager,
}

impl Connection {
    /// Fails when there is no connection. A connection to a server that cannot serve is kept and
    /// watched.
    pub(crate) async fn open(config: &RedisConfig) -> Result<Self, QueueError> {
        let access = Access::new(config).map_err(|error| QueueError::Invalid(error.to_string()))?;
        let current = ArcSwap::from_pointee(connect(&access).await?);
        let shared = Arc::new(Shared {
            access,
            config: config.clone(),
            current,
            replaced: watch::Sender::new(0),
            standing: watch::Sender::default(),
            clock: Clock::default(),
            probe_key: config.probe_key(),
            unfit: Mutex::default(),
            rights: tokio::sync::Mutex::default(),
            looks: AtomicU32::new(0),
            replacing: tokio::sync::Mutex::default(),
        });
        let connection = Self(shared);
        connection.look().await;
        tokio::spawn(keep_looking(Arc::downgrade(&connection.0)));
        Ok(connection)
    }

    pub(crate) fn get(&self) -> ConnectionManager {
        self.0.current.load().manager.clone()
    }

    /// A client for separate connections to the current server.
    pub(crate) fn client(&self) -> redis::Client {
        self.0.current.load().client.clone()
    }

    /// Notifies when the connection was replaced: other connections of the same age are as silent,
    /// or lead to the same replica.
    pub(crate) fn replacements(&self) -> watch::Receiver<u64> {
        self.0.replaced.subscribe()
    }

    /// Notifies when workers may start or must stop taking jobs.
    pub(crate) fn standings(&self) -> watch::Receiver<Standing> {
        self.0.standing.subscribe()
    }

    pub(crate) fn takes_jobs(&self) -> bool {
        self.0.standing.borrow().takes_jobs()
    }

    /// What the last check has found.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.0.standing.borrow().trouble.clone()
    }

    /// Unix milliseconds by Redis's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.0.clock.now_ms()
    }

    /// Does a round trip only, unlike [`Connection::look`].
    pub(crate) async fn ping(&self) -> Result<Duration, QueueError> {
        self.ask(&self.get()).await
    }

    /// Does a round trip. If there is no answer or the server no longer serves, the connection is
    /// replaced, and the next commands use the new one.
    pub(crate) async fn look(&self) -> Standing {
        let asked = self.ask_or_replace().await;
        if self
            .0
            .looks
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(LOOKS_PER_SURVEY)
            && asked.is_ok()
        {
            self.survey().await;
        }
        let unfit = self.0.unfit.lock().clone();
        let (round_trip, trouble) = match asked {
            Ok(round_trip) => (Some(round_trip), unfit),
            // The kind of server explains more than the command that it refused.
            Err(error) => (
                None,
                unfit.filter(|unfit| !unfit.serves()).or(Some(
                    error
                        .trouble()
                        .unwrap_or_else(|| Trouble::Refused(error.to_string())),
                )),
            ),
        };
        let standing = Standing {
            trouble,
            skew_ms: self.0.clock.skew_ms(),
            round_trip,
        };
        self.note(standing.clone());
        standing
    }

    async fn ask_or_replace(&self) -> Result<Duration, QueueError> {
        let before = *self.0.replaced.borrow();
        let error = match self.ask(&self.get()).await {
            Ok(round_trip) => return Ok(round_trip),
            Err(error) => error,
        };
        let _one_at_a_time = self.0.replacing.lock().await;
        if *self.0.replaced.borrow() != before {
            return self.ask(&self.get()).await;
        }
        if matches!(error, QueueError::CannotServe { .. }) {
            self.survey().await;
        }
        let fresh = connect(&self.0.access).await?;
        let asked = self.ask(&fresh.manager).await;
        // If neither server can serve, keep the present connection: breaking the calls that wait on
        // it gains nothing.
        if asked.is_ok() || matches!(error, QueueError::Unavailable(_)) {
            warn!(%error, "Reconnected to Redis");
            self.0.current.store(Arc::new(fresh));
            self.0.replaced.send_modify(|times| *times += 1);
            self.survey().await;
        }
        asked
    }

    /// Checks whether Redis accepts writes, with a write that changes nothing. A full Redis accepts
    /// it too.
    async fn ask(&self, connection: &ConnectionManager) -> Result<Duration, QueueError> {
        let mut pipe = redis::pipe();
        pipe.ignore_errors().cmd("TIME").del(&self.0.probe_key);
        let mut connection = connection.clone();
        let asked = Instant::now();
        let answers = tokio::time::timeout(SILENCE_LIMIT, pipe.query_async(&mut connection)).await;
        let (time, written): (RedisResult<Value>, RedisResult<Value>) =
            answers.map_err(silent)??;
        let answered = Instant::now();
        written?;
        if let Ok((seconds, micros)) =
            time.and_then(|time| Ok(redis::from_redis_value::<(u64, u64)>(time)?))
        {
            self.0.clock.note(
                Duration::new(seconds, 0) + Duration::from_micros(micros),
                asked,
                answered,
            );
        }
        Ok(answered.saturating_duration_since(asked))
    }

    /// Checks what kind of server it is and whether it may evict keys. If `INFO` is not permitted,
    /// both stay unknown.
    async fn survey(&self) {
        let command = redis::cmd("INFO");
        let mut connection = self.get();
        let unfit = match tokio::time::timeout(
            SILENCE_LIMIT,
            command.query_async::<String>(&mut connection),
        )
        .await
        {
            Ok(Ok(info)) => unfit(&info),
            Ok(Err(error)) => {
                debug!(%error, "INFO is refused: cluster mode and maxmemory-policy of Redis are unknown");
                None
            }
            Err(_) => return,
        };
        let unfit = match unfit {
            Some(unfit) if !unfit.serves() => Some(unfit),
            unfit => self.lacking_rights().await.or(unfit),
        };
        *self.0.unfit.lock() = unfit;
    }

    /// Checks the rights at intervals, and at each survey while one is missing.
    async fn lacking_rights(&self) -> Option<Trouble> {
        let mut known = self.0.rights.lock().await;
        let (looked_at, lacking) = &*known;
        if lacking.is_none() && looked_at.is_some_and(|at| at.elapsed() < RIGHTS_EVERY) {
            return None;
        }
        let client = self.client();
        let looked =
            tokio::time::timeout(SILENCE_LIMIT, rights::missing(&client, &self.0.config)).await;
        // Without an answer, the last known result stays.
        if let Ok(Ok(missing)) = looked {
            let essential = missing
                .iter()
                .filter(|right| right.is_essential())
                .map(ToString::to_string);
            let essential = essential.collect::<Vec<_>>().join(" ");
            *known = (
                Some(Instant::now()),
                (!essential.is_empty()).then_some(Trouble::Rights(essential)),
            );
        }
        known.1.clone()
    }

    /// Wakes the workers and writes to the log when something relevant has changed.
    fn note(&self, now: Standing) {
        self.0.standing.send_if_modified(|known| {
            let (takes, trouble) = (known.takes_jobs() != now.takes_jobs(), known.trouble != now.trouble);
            match &now.trouble {
                Some(now) if trouble => error!(code = now.code(), next = now.next(), "{now}"),
                None if trouble => info!("Redis works again"),
                _ => {}
            }
            if known.is_skewed() != now.is_skewed() {
                let skew_ms = now.skew_ms.unwrap_or_default();
                match now.is_skewed() {
                    true => error!(
                        skew_ms,
                        "This machine's clock differs too much from Redis's: this host takes no jobs until the clock is right"
                    ),
                    false => info!(skew_ms, "This machine's clock is right again"),
                }
            }
            *known = now;
            takes || trouble
        });
    }
}

/// Reads the reply of `INFO`. Other fields of a cluster or a Sentinel look like those of any
/// server.
fn unfit(info: &str) -> Option<Trouble> {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
    };
    match field("redis_mode") {
        Some("cluster") => return Some(Trouble::Cluster),
        Some("sentinel") => return Some(Trouble::Sentinel),
        _ => {}
    }
    // Without a memory limit, Redis evicts nothing.
    let has_limit = field("maxmemory").is_some_and(|limit| limit != "0");
    let policy = field("maxmemory_policy").filter(|policy| has_limit && *policy != "noeviction")?;
    Some(Trouble::Evicts(policy.to_owned()))
}

async fn keep_looking(shared: Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        // The error is not handled here: every user of the connection meets it too.
        let serves = Connection(shared).look().await.serves();
        tokio::time::sleep(if serves { LOOK_EVERY } else { LOOK_AGAIN }).await;
    }
}

async fn connect(access: &Access) -> Result<Live, QueueError> {
    let config = ConnectionManagerConfig::new()
        .set_response_timeout(Some(RESPONSE_LIMIT))
        .set_connection_timeout(Some(CONNECT_LIMIT))
        .set_number_of_retries(3)
        .set_max_delay(Duration::from_millis(500));
    let client = access.client().await?;
    let connecting = ConnectionManager::new_with_config(client.clone(), config);
    // A server without TLS keeps waiting for the end of a line and never answers the handshake.
    let is_tls = access.is_tls();
    let unanswered = move |elapsed| if is_tls { no_tls() } else { silent(elapsed) };
    let manager = tokio::time::timeout(CONNECT_LIMIT, connecting)
        .await
        .map_err(unanswered)??;
    Ok(Live { client, manager })
}

fn no_tls() -> redis::RedisError {
    let text = "the TLS handshake got no answer; if Redis runs there, it does not use TLS on this port (redis.tls)";
    std::io::Error::new(std::io::ErrorKind::TimedOut, text).into()
}

fn silent(_: tokio::time::error::Elapsed) -> redis::RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_none_for_us_says_so_itself() {
        let of = |info: &str| unfit(info).map(|trouble| trouble.code());
        assert_eq!(of("redis_mode:cluster\r\nmaxmemory:0\r\n"), Some("cluster"));
        assert_eq!(of("redis_mode:sentinel\r\n"), Some("sentinel"));
        assert_eq!(
            of("redis_mode:standalone\r\nmaxmemory:100\r\nmaxmemory_policy:allkeys-lru\r\n"),
            Some("evicts")
        );
        assert_eq!(
            of("redis_mode:standalone\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n"),
            None
        );
        assert_eq!(
            of("redis_mode:standalone\r\nmaxmemory:100\r\nmaxmemory_policy:noeviction\r\n"),
            None
        );
    }

    #[test]
    fn a_wrong_clock_or_a_server_that_cannot_serve_stops_the_taking_of_jobs() {
        let takes = |trouble, skew_ms| {
            Standing {
                trouble,
                skew_ms,
                round_trip: None,
            }
            .takes_jobs()
        };
        assert!(takes(None, Some(-5_000)) && takes(None, None) && takes(Some(Trouble::Away), None));
        assert!(takes(Some(Trouble::Evicts("allkeys-lru".into())), Some(0)));
        assert!(
            !takes(None, Some(5_001))
                && !takes(None, Some(-600_000))
                && !takes(Some(Trouble::Replica), Some(0))
        );
    }
}
