//! The content of a response on its way to a client: no faster than the client takes it, and not
//! slower than it must.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::relay_content::{RelayAborted, Source};
use super::relay_places::{Place, RelayPace, Relays};

/// Least pause between two looks at a client.
const LOOK: Duration = Duration::from_millis(20);

/// The content of a response that is passed on.
#[derive(Debug)]
pub struct RelayBody(Arc<Passing>);

#[derive(Debug)]
struct Passing {
    relays: Arc<Relays>,
    ends: Instant,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    turn: Turn,
    /// Since the pace was judged: bytes that the client was given, and time for which it let the host
    /// wait.
    bytes: u64,
    waited: Duration,
}

/// Who is waited for.
#[derive(Debug)]
enum Turn {
    /// The client, which has not asked for more since then.
    Client(Box<Passed>, Instant),
    /// The server.
    Host,
    Ended(Option<RelayAborted>),
}

#[derive(Debug)]
struct Passed {
    source: Source,
    _place: Place,
}

impl RelayBody {
    /// A client that reads too slowly loses its place, even while it asks for nothing.
    pub(super) fn new(source: Source, place: Place, limit: Duration) -> Self {
        let relays = Arc::clone(place.relays());
        let passed = Passed {
            source,
            _place: place,
        };
        let began = Instant::now();
        let body = Arc::new(Passing {
            ends: began + limit,
            now: Mutex::new(Now {
                turn: Turn::Client(Box::new(passed), began),
                bytes: 0,
                waited: Duration::ZERO,
            }),
            relays,
        });
        if body.relays.pace().min_bytes_per_s > 0 {
            tokio::spawn(watch(Arc::downgrade(&body)));
        }
        Self(body)
    }

    /// The next piece; nothing after the last. After an error there is no more, and the client must
    /// not take what it has for the whole.
    pub async fn next(&mut self) -> Option<Result<Vec<u8>, RelayAborted>> {
        let mut passed = match self.0.taken() {
            Ok(passed) => passed?,
            Err(why) => return Some(Err(why)),
        };
        match passed.source.next(self.0.ends).await {
            Some(Ok(piece)) => {
                self.0.handed(passed, piece.len());
                Some(Ok(piece))
            }
            Some(Err(why)) => {
                self.0.cut_off(why, passed.source.bytes());
                self.0.now.lock().turn = Turn::Ended(None);
                Some(Err(why))
            }
            None => {
                self.0.now.lock().turn = Turn::Ended(None);
                None
            }
        }
    }
}

impl Passing {
    /// The client asks for more.
    fn taken(&self) -> Result<Option<Box<Passed>>, RelayAborted> {
        let now = &mut *self.now.lock();
        match std::mem::replace(&mut now.turn, Turn::Host) {
            Turn::Client(passed, since) => {
                now.waited += since.elapsed();
                Ok(Some(passed))
            }
            Turn::Host => {
                now.turn = Turn::Ended(None);
                Ok(None)
            }
            Turn::Ended(why) => {
                now.turn = Turn::Ended(None);
                why.map_or(Ok(None), Err)
            }
        }
    }

    fn handed(&self, passed: Box<Passed>, bytes: usize) {
        let mut now = self.now.lock();
        now.bytes += bytes as u64;
        now.turn = Turn::Client(passed, Instant::now());
    }

    fn cut_off(&self, why: RelayAborted, bytes: u64) {
        self.relays.cut_off(why.as_str());
        match why {
            // Somebody has to change a manifest or a server.
            RelayAborted::Credential | RelayAborted::TooLarge => {
                warn!(bytes, %why, "a relayed response was cut off")
            }
            _ => debug!(bytes, %why, "a relayed response was cut off"),
        }
    }

    /// Cuts the response off if its client is too slow. Returns when to look again.
    fn judge(&self) -> Option<Duration> {
        let RelayPace {
            min_bytes_per_s,
            over,
        } = self.relays.pace();
        let mut now = self.now.lock();
        match &mut now.turn {
            Turn::Ended(_) => return None,
            Turn::Host => {}
            Turn::Client(_, since) => {
                let (waited, at) = (since.elapsed(), Instant::now());
                *since = at;
                now.waited += waited;
            }
        }
        if now.waited < over {
            return Some((over - now.waited).max(LOOK));
        }
        let least = now.waited.as_secs_f64() * f64::from(min_bytes_per_s);
        let is_slow = (now.bytes as f64) < least;
        (now.bytes, now.waited) = (0, Duration::ZERO);
        if !is_slow || !matches!(now.turn, Turn::Client(..)) {
            return Some(over);
        }
        let ended = Turn::Ended(Some(RelayAborted::SlowClient));
        let before = std::mem::replace(&mut now.turn, ended);
        drop(now);
        if let Turn::Client(passed, _) = before {
            self.cut_off(RelayAborted::SlowClient, passed.source.bytes());
        }
        None
    }
}

/// Until the response has ended.
async fn watch(passing: Weak<Passing>) {
    loop {
        let next = passing.upgrade().and_then(|passing| passing.judge());
        match next {
            Some(next) => tokio::time::sleep(next).await,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace_over(over_ms: u64) -> RelayPace {
        RelayPace {
            min_bytes_per_s: 1_000,
            over: Duration::from_millis(over_ms),
        }
    }

    fn cut_off(relays: &Relays) -> Vec<(&'static str, u64)> {
        let mut all = relays.ended();
        all.retain(|(_, count)| *count > 0);
        all
    }

    fn body(relays: &Arc<Relays>, bytes: usize) -> RelayBody {
        let place = relays.place(Some("a")).expect("a place");
        let source = Source::whole(vec![7; bytes]);
        RelayBody::new(source, place, Duration::from_secs(900))
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_loses_its_place_although_it_asks_for_nothing() {
        let relays = Relays::new(pace_over(20));
        let mut body = body(&relays, 1 << 20);
        assert!(body.next().await.is_some_and(|piece| piece.is_ok()));
        assert_eq!(relays.open(), 1);
        // The first piece is more than enough for its time; the next time has nothing.
        let cut = tokio::time::timeout(Duration::from_secs(20), async {
            while relays.open() > 0 {
                tokio::task::yield_now().await;
            }
        });
        cut.await.expect("the client loses its place");
        assert_eq!(body.next().await, Some(Err(RelayAborted::SlowClient)));
        assert_eq!(body.next().await, None);
        assert_eq!(cut_off(&relays), [("slow-client", 1)]);
    }

    /// Time itself is under test: the pace is judged while pieces are taken, and while the server is silent.
    #[tokio::test]
    async fn a_client_that_keeps_the_pace_gets_all_of_it_and_a_slow_server_is_not_its_fault() {
        let relays = Relays::new(pace_over(500));
        let mut body = body(&relays, 1 << 20);
        let mut bytes = 0;
        while let Some(piece) = body.next().await {
            bytes += piece.expect("no error").len();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(bytes, 1 << 20);
        assert_eq!((relays.open(), cut_off(&relays)), (0, vec![]));

        let place = relays.place(None).expect("a place");
        let source = Source::whole_after(vec![7; 10], Duration::from_millis(1_200));
        let mut body = RelayBody::new(source, place, Duration::from_secs(900));
        assert_eq!(body.next().await, Some(Ok(vec![7; 10])));
        assert!(cut_off(&relays).is_empty());
    }
}
