use std::collections::VecDeque;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::*;

/// For whatever must happen, and must not hang the tests when it does not.
const SOON: Duration = Duration::from_secs(10);
const AT_ONCE: Restarting = Restarting {
    first_pause: Duration::ZERO,
    longest_pause: Duration::ZERO,
    settled_after: Duration::from_secs(3_600),
};

enum End {
    Returns,
    Fails,
    Panics,
}

/// Tells what happens to it.
struct Probe {
    name: &'static str,
    /// Of its first runs; later ones run until the stop.
    ends: Mutex<VecDeque<End>>,
    hears_stop: bool,
    health: ServiceHealth,
    events: UnboundedSender<(&'static str, &'static str)>,
}

impl Probe {
    fn tell(&self, event: &'static str) {
        self.events.send((self.name, event)).ok();
    }
}

#[async_trait]
impl Service for Probe {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let end = self.ends.lock().pop_front();
        match end {
            Some(End::Returns) => return Ok(()),
            Some(End::Fails) => anyhow::bail!("it fails"),
            Some(End::Panics) => panic!("it panics"),
            None => self.tell("runs"),
        }
        if self.hears_stop {
            stop.cancelled().await
        } else {
            std::future::pending().await
        }
        self.tell("ended");
        Ok(())
    }

    async fn drain(&self) -> Drained {
        self.tell("drained");
        Drained { left: 1 }
    }

    async fn finish(&self) -> anyhow::Result<()> {
        self.tell("finished");
        Ok(())
    }

    fn health(&self) -> ServiceHealth {
        self.health
    }
}

type Events = UnboundedReceiver<(&'static str, &'static str)>;

fn probes<const N: usize>(names: [&'static str; N]) -> ([Probe; N], Events) {
    let (events, told) = mpsc::unbounded_channel();
    let probe = |name| Probe {
        name,
        ends: Mutex::default(),
        hears_stop: true,
        health: ServiceHealth::Ok,
        events: events.clone(),
    };
    (names.map(probe), told)
}

fn start<const N: usize>(probes: [Probe; N]) -> (Arc<ServiceStatus>, RunningServices) {
    let status = Arc::new(ServiceStatus {
        restarting: AT_ONCE,
        ..ServiceStatus::default()
    });
    let list = probes
        .into_iter()
        .fold(Services::new(Arc::clone(&status)), |list, probe| {
            list.and(Arc::new(probe) as Arc<dyn Service>)
        });
    (status, list.start())
}

async fn next(told: &mut Events) -> (&'static str, &'static str) {
    tokio::time::timeout(SOON, told.recv())
        .await
        .ok()
        .flatten()
        .expect("something happens")
}

async fn all(mut told: Events) -> Vec<(&'static str, &'static str)> {
    let mut all = Vec::new();
    while let Ok(event) = told.try_recv() {
        all.push(event);
    }
    all
}

#[tokio::test]
async fn a_service_that_returns_fails_or_panics_is_restarted_counted_and_named() {
    let ([mut flighty, steady], mut told) = probes(["flighty", "steady"]);
    flighty.ends = Mutex::new(VecDeque::from([End::Returns, End::Fails, End::Panics]));
    let (status, running) = start([flighty, steady]);
    while next(&mut told).await != ("flighty", "runs") {}
    assert_eq!(status.restarts(), [("flighty", 3), ("steady", 0)]);
    let troubles = status.troubles();
    assert!(
        matches!(
            troubles[..],
            [("flighty", ServiceTrouble::Ends { times: 3, .. })]
        ),
        "{troubles:?}"
    );
    running.stop(SOON).await;
    assert_eq!(
        status.restarts(),
        [("flighty", 3), ("steady", 0)],
        "the end at the stop is none"
    );
}

#[tokio::test]
async fn a_service_that_does_not_do_its_work_is_in_trouble_while_it_runs() {
    let ([mut failing], mut told) = probes(["failing"]);
    failing.health = ServiceHealth::Failing("nothing is copied");
    let (status, running) = start([failing]);
    next(&mut told).await;
    assert_eq!(
        status.troubles(),
        [("failing", ServiceTrouble::Fails("nothing is copied"))]
    );
    running.stop(SOON).await;
    assert!(status.troubles().is_empty(), "it is gone");
}

#[tokio::test]
async fn services_drain_one_after_the_other_from_the_last_to_the_first_while_all_run() {
    let (listed, told) = probes(["first", "second", "third"]);
    let (_, running) = start(listed);
    assert_eq!(running.drain().await, Drained { left: 3 });
    let drained: Vec<_> = all(told)
        .await
        .into_iter()
        .filter(|(_, event)| *event != "runs")
        .collect();
    assert_eq!(
        drained,
        [
            ("third", "drained"),
            ("second", "drained"),
            ("first", "drained")
        ]
    );
}

#[tokio::test]
async fn a_service_finishes_after_its_own_end_and_after_all_that_were_listed_later() {
    let (listed, mut told) = probes(["first", "second", "third"]);
    let (_, running) = start(listed);
    for _ in 0..3 {
        assert_eq!(next(&mut told).await.1, "runs");
    }
    running.stop(SOON).await;
    let events = all(told).await;
    let place = |event| {
        events
            .iter()
            .position(|other| *other == event)
            .expect("it has happened")
    };
    assert!(
        place(("third", "finished")) < place(("second", "finished")),
        "{events:?}"
    );
    assert!(
        place(("second", "finished")) < place(("first", "finished")),
        "{events:?}"
    );
    for name in ["first", "second", "third"] {
        assert!(
            place((name, "ended")) < place((name, "finished")),
            "{events:?}"
        );
    }
}

#[tokio::test]
async fn a_service_that_does_not_stop_is_left_behind_after_its_time_and_the_others_finish() {
    let ([first, mut deaf, third], mut told) = probes(["first", "deaf", "third"]);
    deaf.hears_stop = false;
    let (_, running) = start([first, deaf, third]);
    for _ in 0..3 {
        assert_eq!(next(&mut told).await.1, "runs");
    }
    tokio::time::timeout(SOON, running.stop(Duration::from_millis(10)))
        .await
        .expect("it stops all the same");
    let finished: Vec<_> = all(told)
        .await
        .into_iter()
        .filter(|(_, event)| *event == "finished")
        .collect();
    assert_eq!(finished, [("third", "finished"), ("first", "finished")]);
}

#[tokio::test]
async fn a_service_that_waits_for_its_restart_stops_at_once() {
    let ([mut flighty], _told) = probes(["flighty"]);
    flighty.ends = Mutex::new(VecDeque::from([End::Returns]));
    let restarting = Restarting {
        first_pause: SOON * 100,
        longest_pause: SOON * 100,
        ..AT_ONCE
    };
    let status = Arc::new(ServiceStatus {
        restarting,
        ..ServiceStatus::default()
    });
    let running = Services::new(Arc::clone(&status))
        .and(Arc::new(flighty) as Arc<dyn Service>)
        .start();
    while status.troubles().is_empty() {
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(SOON, running.stop(SOON * 2))
        .await
        .expect("it does not wait for the pause");
}

#[test]
fn pauses_grow_to_half_a_minute() {
    assert_eq!(
        [1, 2, 3, 5, 6, 40].map(|ends| RESTARTING.pause(ends).as_secs()),
        [1, 2, 4, 16, 30, 30]
    );
}

#[test]
fn a_service_that_has_run_long_enough_counts_from_the_beginning() {
    let watched = Watched {
        name: "old",
        service: Weak::<Probe>::new(),
        restarts: 7,
        ends: Ends {
            in_a_row: 5,
            last: None,
        },
    };
    let status = ServiceStatus {
        restarting: RESTARTING,
        watched: Mutex::new(vec![watched]),
    };
    assert_eq!(
        status.ended(0, RESTARTING.settled_after - Duration::from_millis(1)),
        6
    );
    assert_eq!(status.ended(0, RESTARTING.settled_after), 1);
    assert_eq!(status.restarts(), [("old", 9)]);
}
