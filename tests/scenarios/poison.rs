//! A job that kills its host each time it runs: the host finds it, runs it alone, and ends it; the
//! other jobs lose nothing.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use axum::extract::State;
use axum::routing::get;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::harness::{World, hostile_plugin_with, until};

const QUEUE: &str = "hostileQueue";
/// With this, a job has killed its host four times when it fails.
const MAX_STALLS: u32 = 3;

/// The jobs' server: one path kills the host that runs the job, the other counts concurrent jobs.
struct Outside {
    host: AtomicI32,
    /// Open harmless calls.
    open: AtomicUsize,
    /// Open harmless calls at each kill.
    beside: Mutex<Vec<usize>>,
    killed: mpsc::UnboundedSender<()>,
}

struct Open(Arc<Outside>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn kill(State(outside): State<Arc<Outside>>) {
    outside
        .beside
        .lock()
        .expect("not poisoned")
        .push(outside.open.load(Ordering::SeqCst));
    let host =
        rustix::process::Pid::from_raw(outside.host.load(Ordering::SeqCst)).expect("a host runs");
    rustix::process::kill_process(host, rustix::process::Signal::KILL).expect("it was running");
    outside.killed.send(()).ok();
    std::future::pending::<()>().await;
}

async fn harmless(State(outside): State<Arc<Outside>>) {
    outside.open.fetch_add(1, Ordering::SeqCst);
    let _open = Open(outside);
    // Much longer than the time between two calls: the poison always finds some of them open.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn a_job_that_kills_its_host_runs_alone_and_then_fails_while_the_others_complete()
-> anyhow::Result<()> {
    const OTHERS: usize = 400;
    let world = World::new().await?;
    let (killed, mut kills) = mpsc::unbounded_channel();
    let (host, open, beside) = (AtomicI32::new(0), AtomicUsize::new(0), Mutex::default());
    let outside = Arc::new(Outside {
        host,
        open,
        beside,
        killed,
    });
    let routes = axum::Router::new()
        .route("/poison", get(kill))
        .route("/harmless", get(harmless));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn({
        let routes = routes.with_state(Arc::clone(&outside));
        async move { axum::serve(listener, routes).await }
    });

    let env = [
        ("PATCHBAY_WORK_LOCK_S", "3"),
        ("PATCHBAY_WORK_RENEW_S", "1"),
        ("PATCHBAY_WORK_MAX_STALLS", "3"),
    ];
    let mut host = world.host(&env).await?;
    let plugin = hostile_plugin_with(|manifest| {
        // A long deadline, since deadlines are not tested here.
        manifest
            .replace("127.0.0.1:9/", &format!("{address}/"))
            .replace("deadline_ms = 200", "deadline_ms = 20_000")
    });
    host.deploy("hostile", plugin?).await?;
    let pid = |host: &crate::harness::Host| {
        anyhow::Ok(i32::try_from(host.child.id().context("it runs")?)?)
    };
    outside.host.store(pid(&host)?, Ordering::SeqCst);
    let job = |path: &str| json!({ "name": "outside", "data": { "url": format!("http://{address}/{path}") } });
    // Paused while they are added, so that the poison runs among the others.
    host.post(&format!("/api/admin/queues/{QUEUE}/pause"), json!({}))
        .await?;
    let mut poison = String::new();
    for n in 0..OTHERS {
        if n == OTHERS / 10 {
            poison = host.add(QUEUE, job("poison")).await?;
        }
        host.add(QUEUE, job("harmless")).await?;
    }
    host.post(&format!("/api/admin/queues/{QUEUE}/resume"), json!({}))
        .await?;

    for _ in 0..=MAX_STALLS {
        tokio::time::timeout(Duration::from_secs(60), kills.recv()).await?;
        host.child.wait().await?;
        // Jobs that come back together with the poison must find other work too.
        host = world.host(&env).await?;
        outside.host.store(pid(&host)?, Ordering::SeqCst);
    }
    let story = host.job_in(QUEUE, &poison, "failed").await?;
    assert_eq!(
        story["job"]["failedReason"], "crashed-host: job stalled more than allowable limit",
        "{story}"
    );
    assert_eq!(story["job"]["stalled"], MAX_STALLS + 1);
    until(
        Duration::from_secs(60),
        "the others completed",
        async || {
            let counts =
                host.get(&format!("/api/admin/queues/{QUEUE}")).await?.1["data"]["counts"].clone();
            let (_, failed) = host
                .get(&format!("/api/admin/queues/{QUEUE}/jobs?state=failed"))
                .await?;
            assert_eq!(counts["failed"], 1, "only the poison fails: {failed}");
            Ok((counts["completed"] == OTHERS).then_some(()))
        },
    )
    .await?;
    let beside = outside.beside.lock().expect("not poisoned").clone();
    println!("calls of other jobs at each kill: {beside:?}");
    assert!(
        beside[0] > 0,
        "the others ran beside it at first: {beside:?}"
    );
    assert_eq!(
        beside[2..],
        [0, 0],
        "after two stalls it runs alone: {beside:?}"
    );
    // The history is written after the job has ended.
    until(
        Duration::from_secs(60),
        "the attempt is in the history",
        async || {
            let (_, attempts) = host
                .get(&format!("/api/admin/queues/{QUEUE}/jobs/{poison}"))
                .await?;
            let outcomes = attempts["data"]["attempts"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            Ok(outcomes
                .iter()
                .any(|attempt: &Value| attempt["code"] == "crashed-host")
                .then_some(()))
        },
    )
    .await
}
