//! Every way in which a guest can end or misbehave, with the expected outcome. Whatever a guest
//! returns is the guest's fault and uses up an attempt, unless the host has set the failure itself.
//!
//! The sandbox is called directly, without queues: one line per way. One way uses a host, below.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use patchbay_model::manifest::Manifest;
use patchbay_model::outcome::{Outcome, OutcomeKind, Retry};
use patchbay_runtime::{CallReport, HostLimits, JobCall, Revision, Runtime, RuntimeConfig};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::harness::{World, hostile_plugin, hostile_plugin_with, until};

const MEMORY_MB: usize = 64;

fn sandbox(dir: &std::path::Path) -> anyhow::Result<Arc<Runtime>> {
    let config = RuntimeConfig {
        cache_dir: dir.into(),
        compiler: None,
        compile_timeout: Duration::from_secs(60),
        compile_memory_bytes: 4 << 30,
        max_calls: 8,
        worker_threads: 2,
        limits: HostLimits {
            default_memory_mb: 64,
            max_memory_mb: 512,
            default_deadline: Duration::from_secs(5),
            max_deadline: Duration::from_secs(30),
            max_result_bytes: 1 << 20,
            max_log_bytes: 64 << 10,
            max_component_bytes: 64 << 20,
        },
        draft_wit: true,
        cache_key: [7; 32],
    };
    Ok(Runtime::new(config, patchbay_capability::link)?)
}

async fn run(revision: &Arc<Revision>, name: &str, data: serde_json::Value) -> CallReport {
    let job = JobCall {
        id: "1".into(),
        queue: "hostileQueue".into(),
        name: name.into(),
        data: data.to_string(),
        attempt: 1,
        max_attempts: 1,
        enqueued_at_ms: 0,
        idempotency_key: "k".into(),
        correlation_id: "c".into(),
        platform: "p".into(),
        schedule_id: None,
        first_deferred_at_ms: None,
        occupancy: Arc::default(),
        cancel: CancellationToken::new(),
    };
    revision.run_job(job, None).await
}

/// Anonymous memory of this process.
fn resident_bytes() -> anyhow::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .context("RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? << 10)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_guest_does_with_what_it_may_call_is_its_own_fault() -> anyhow::Result<()> {
    use OutcomeKind::{Completed, Deadline, Failed, InvalidResult, MemoryLimit, Trapped};
    let dir = tempfile::tempdir()?;
    let runtime = sandbox(dir.path())?;
    let patient = hostile_plugin_with(|manifest| {
        manifest.replace("deadline_ms = 200", "deadline_ms = 20_000")
    })?;
    let patient = runtime.load(&patient).await?;
    // For guests that end only by their deadline: a short one saves time.
    let hasty = runtime.load(&hostile_plugin()?).await?;
    for (name, expected, says) in [
        ("noop", Completed, ""),
        ("panic", Trapped, "panicked at hostile/src/lib.rs:"),
        ("recurse", Trapped, "out of bounds memory access at"),
        ("memory", MemoryLimit, "needed more than its 64 MiB"),
        ("big-result", InvalidResult, "the limit is"),
        ("exit-0", Trapped, "it called exit(0) instead of returning"),
        ("exit-3", Trapped, "it called exit(1) instead of returning"),
        (
            "exit-after-a-word",
            Trapped,
            "Assertion failed: balance >= 0 (book.c: post: 41)",
        ),
        ("abort", Trapped, "unreachable"),
        ("random", Trapped, "exceeds limit 1048576"),
        ("insecure-random", Trapped, "exceeds limit 1048576"),
        ("random-mebibyte", Completed, ""),
        ("handles", Trapped, "more than 4096 resources at once"),
        ("streams", Trapped, "more than 4096 resources at once"),
        ("handles-given-back", Completed, ""),
        ("fields", MemoryLimit, "needed more than its 64 MiB"),
        ("small-fields", MemoryLimit, "needed more than its 64 MiB"),
        ("field-clones", Completed, ""),
        ("giant-field", Trapped, "total size of fields exceeds limit"),
        ("invalid-field", Completed, ""),
        ("methods", MemoryLimit, "needed more than its 64 MiB"),
        ("bodies", MemoryLimit, "needed more than its 64 MiB"),
        ("unfinished", Completed, ""),
        ("poll-nothing", Trapped, "empty poll list"),
        (
            "poll-a-million",
            Trapped,
            "more than 4096 resources at once",
        ),
        ("poll-many", Deadline, "after 200 ms"),
        ("poll-busily", Deadline, "after 200 ms"),
        ("wait-forever", Deadline, "after 200 ms"),
        ("loop", Deadline, "after 200 ms"),
        ("write-too-much", Trapped, "Buffer too large"),
        ("zeroes", Trapped, "cannot write more zeroes"),
        ("splice", Completed, ""),
        ("print-without-end", Completed, ""),
        ("unknown-handle", Trapped, "unknown handle index 4711"),
        ("dropped-twice", Trapped, "unknown handle index"),
        ("wrong-type", Trapped, "used with the wrong type"),
        ("parent-dropped-first", Trapped, "resource has children"),
        ("bad-progress", Completed, ""),
        ("unheard-of", Failed, "invalid-input"),
    ] {
        let revision = if expected == Deadline {
            &hasty
        } else {
            &patient
        };
        let (before, started) = (resident_bytes()?, Instant::now());
        let report = run(revision, name, json!({})).await;
        let (took, grown) = (
            started.elapsed(),
            resident_bytes()?.saturating_sub(before) >> 20,
        );
        let reason = report.outcome.reason().unwrap_or_default();
        println!(
            "{name}: {reason} ({took:?}, peak {} MiB, {grown} MiB more)",
            report.peak_memory_bytes >> 20
        );
        assert_eq!(report.outcome.kind(), expected, "{name}: {reason}");
        assert!(reason.contains(says), "{name}: {reason}");
        // The memory of the guest and of the host for it; the rest is being copied at that moment.
        assert!(
            report.peak_memory_bytes <= (MEMORY_MB as u64) << 20,
            "{name}"
        );
        assert!(grown <= 2 * MEMORY_MB, "{name}: {grown} MiB more");
        assert!(took < Duration::from_secs(20), "{name}: {took:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_declares_is_brought_within_limits_whatever_it_is() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let patient = hostile_plugin_with(|manifest| {
        manifest.replace("deadline_ms = 200", "deadline_ms = 5_000")
    })?;
    let revision = sandbox(dir.path())?.load(&patient).await?;
    let failure = async |data: serde_json::Value| match run(&revision, "fail", data).await.outcome {
        Outcome::Failed(failure) => Ok(failure),
        other => anyhow::bail!("{other:?}"),
    };
    let empty = failure(json!({ "message": "", "code": "" })).await?;
    assert_eq!(
        (empty.code.as_str(), empty.message.as_str()),
        ("unspecified", "(the plugin gave no message)")
    );
    let long =
        failure(json!({ "message": "long ", "times": 4 << 20, "code": "x".repeat(1 << 20) }))
            .await?;
    // The rest is cut later, by the crate `work`, which knows what is redacted.
    assert_eq!((long.code.len(), long.message.len()), (64, 8_192));
    for retry in ["defer", "after"] {
        let ages = failure(json!({ "retry": retry, "ms": u64::MAX }))
            .await?
            .retry;
        assert!(
            matches!(ages, Retry::Defer(ms) | Retry::After(ms) if ms == Duration::from_millis(u64::MAX)),
            "{ages:?}"
        );
    }
    Ok(())
}

/// The part before `run` in every component of this test.
const AROUND: &str = r#"
  (memory (export "memory") 2)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
"#;
/// A valid result: the pointer to it, and the data at that address.
const FINE: &str = r#"(i32.store8 (i32.const 1024) (i32.const 0))
  (i32.store (i32.const 1032) (i32.const 2048)) (i32.store (i32.const 1036) (i32.const 4))
  (i32.store (i32.const 2048) (i32.const 0x6c6c756e)) (i32.const 1024)"#;

/// The result of a job, in memory at 1024: whether it failed, and two words.
fn result(failed: u32, word: u32, length: u32) -> String {
    format!(
        "(i32.store8 (i32.const 1024) (i32.const {failed})) (i32.store (i32.const 1032) (i32.const {word}))
         (i32.store (i32.const 1036) (i32.const {length})) (i32.const 1024)"
    )
}

/// A component whose jobs run this text; `{RUN}` in `module` becomes their export's name.
fn component(wit: &str, module: &str) -> anyhow::Result<Vec<u8>> {
    let (text, version) = match wit {
        "0.1" => (include_str!("../../wit/v0.1/plugin.wit"), "0.1.1"),
        // Built before the newest patch.
        "0.1.0" => (include_str!("../../wit/released/0.1.0.wit"), "0.1.0"),
        _ => (include_str!("../../wit/v0.2/plugin.wit"), "0.2.0-draft.3"),
    };
    let mut resolve = Resolve::default();
    let package = resolve.push_str(
        "plugin.wit",
        &format!("{text}\nworld bare {{ export jobs; }}\n"),
    )?;
    let world = resolve.select_world(&[package], Some("bare"))?;
    let run = format!("patchbay:plugin/jobs@{version}#run");
    let mut module = wat::parse_str(format!("(module {})", module.replace("{RUN}", &run)))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    let component = ComponentEncoder::default()
        .module(&module)?
        .validate(true)
        .encode()?;
    let minor = wit.trim_end_matches(".0");
    let manifest = format!(
        "name = \"text\"\nversion = \"0.1.0\"\nwit = \"{minor}\"\ndescription = \"-\"\n\
         [limits]\nmemory_mb = 8\ndeadline_ms = 200\n[[queues]]\nname = \"hostileQueue\"\n"
    );
    let manifest = Manifest::from_toml(&manifest, |file| Err(format!("{file} is not expected")))?;
    Ok(patchbay_runtime::pack(&component, &manifest)?)
}

fn running(body: &str) -> String {
    format!("{AROUND} (func (export \"{{RUN}}\") (param i32) (result i32) {body})")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_guest_gives_back_or_does_at_its_start_is_its_own_fault() -> anyhow::Result<()> {
    use OutcomeKind::{Completed, Deadline, InvalidResult, MemoryLimit, Trapped};
    let dir = tempfile::tempdir()?;
    let runtime = sandbox(dir.path())?;
    let failure = |retry: u32| {
        format!(
            "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1048) (i32.const {retry})) (i32.const 1024)"
        )
    };
    let started = |body: &str| format!("{} (func $start {body}) (start $start)", running(FINE));
    let cases: Vec<(&str, String, OutcomeKind, &str)> = vec![
        ("a fine result", running(FINE), Completed, ""),
        // A result that cannot be read.
        (
            "not UTF-8",
            running(&format!(
                "(i32.store (i32.const 2048) (i32.const -1)) {}",
                result(0, 2048, 4)
            )),
            InvalidResult,
            "invalid utf-8",
        ),
        (
            "a pointer out of its memory",
            running(&result(0, 0xffff_fff0, 4)),
            InvalidResult,
            "out of bounds",
        ),
        (
            "four gigabytes",
            running(&result(0, 0, u32::MAX)),
            InvalidResult,
            "out of bounds",
        ),
        (
            "no such case",
            running(&result(7, 0, 0)),
            InvalidResult,
            "invalid",
        ),
        (
            "no such case of retry",
            running(&failure(9)),
            InvalidResult,
            "invalid",
        ),
        (
            "a fine failure",
            running(&failure(2)),
            OutcomeKind::Failed,
            "unspecified",
        ),
        (
            "a result that is nowhere",
            running("(i32.const -8)"),
            InvalidResult,
            "out of bounds",
        ),
        (
            "a result at an odd place",
            running("(i32.const 1025)"),
            InvalidResult,
            "not aligned",
        ),
        (
            "an empty result",
            running(&result(0, 0, 0)),
            InvalidResult,
            "JSON",
        ),
        // While it runs.
        (
            "unreachable",
            running("unreachable"),
            Trapped,
            "unreachable",
        ),
        (
            "division by zero",
            running("(i32.div_u (i32.const 1) (i32.const 0))"),
            Trapped,
            "divide by zero",
        ),
        (
            "no such function",
            running("(drop (i32.const 0)) (call_indirect (result i32) (i32.const 3))")
                + "(table 4 funcref)",
            Trapped,
            "uninitialized",
        ),
        (
            "endless recursion",
            running("(call $deeper (i32.const 0))")
                + "(func $deeper (param i32) (result i32) (i32.add (call $deeper (local.get 0)) (i32.const 1)))",
            Trapped,
            "stack",
        ),
        (
            "an endless loop",
            running("(loop $l (br $l)) unreachable"),
            Deadline,
            "200 ms",
        ),
        // The guest gets no more memory, and continues.
        (
            "all memory in small steps",
            running(&format!(
                "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) {FINE}"
            )),
            Completed,
            "",
        ),
        (
            "all memory, then nothing",
            running(
                "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable",
            ),
            MemoryLimit,
            "8 MiB",
        ),
        (
            "a growing table",
            running(&format!(
                "(loop $l (br_if $l (i32.ne (table.grow (ref.null func) (i32.const 1000)) (i32.const -1)))) {FINE}"
            )) + "(table 4 funcref)",
            Completed,
            "",
        ),
        // In its allocator, when the host stores the job there.
        (
            "an allocator that breaks",
            running(FINE).replace("(i32.const 65536))", "unreachable)"),
            Trapped,
            "unreachable",
        ),
        (
            "an allocator that lies",
            running(FINE).replace("(i32.const 65536))", "(i32.const -1))"),
            Trapped,
            "realloc return",
        ),
        // After the call.
        (
            "cleaning up breaks",
            running(FINE) + "(func (export \"cabi_post_{RUN}\") (param i32) unreachable)",
            Trapped,
            "unreachable",
        ),
        // At its start, before any call.
        (
            "a start that breaks",
            started("unreachable"),
            Trapped,
            "unreachable",
        ),
        (
            "a start that never ends",
            started("(loop $l (br $l))"),
            Deadline,
            "200 ms",
        ),
        (
            "a start that takes all memory",
            started(
                "(if (i32.eq (memory.grow (i32.const 4000)) (i32.const -1)) (then unreachable))",
            ),
            MemoryLimit,
            "8 MiB",
        ),
        (
            "data outside of its memory",
            running(FINE) + "(data (i32.const 0x7fff_ffff) \"x\")",
            Trapped,
            "out of bounds",
        ),
        (
            "an initializer that breaks",
            running(FINE) + "(func (export \"_initialize\") unreachable)",
            Trapped,
            "unreachable",
        ),
    ];
    let mut seen = HashSet::new();
    // Of the release before the newest patch, it is enough that its components run.
    for (wit, count) in [("0.1", cases.len()), ("0.1.0", 2), ("0.2", cases.len())] {
        for (what, module, expected, says) in cases.iter().take(count) {
            let component = component(wit, module).with_context(|| format!("{what} ({wit})"))?;
            let revision = runtime
                .load(&component)
                .await
                .with_context(|| format!("{what} ({wit})"))?;
            let report = run(&revision, "any", json!({})).await;
            let reason = report.outcome.reason().unwrap_or_default();
            println!("{what} ({wit}): {reason}");
            assert_eq!(report.outcome.kind(), *expected, "{what} ({wit}): {reason}");
            assert!(reason.contains(says), "{what} ({wit}): {reason}");
            seen.insert(report.outcome.kind());
        }
    }
    ensure!(!seen.contains(&OutcomeKind::HostFault));
    Ok(())
}

#[tokio::test]
async fn staging_refuses_what_cannot_start_and_names_what_it_needs() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    // 13 MiB, where memory_mb is 8.
    let large = running(FINE).replace("\"memory\") 2)", "\"memory\") 208)");
    let growing = format!(
        "(func $start (drop (memory.grow (i32.const 208)))) (start $start) {}",
        running(FINE)
    );
    let breaking = format!("(func $start unreachable) (start $start) {}", running(FINE));
    for (module, says) in [
        (large, "the component needs 13 MiB of memory to start, but its limit is 8 MiB"),
        (running(FINE).replace("\"memory\") 2)", "\"memory\") 20000)"), "does not fit the host"),
        (running(FINE) + "(memory 1) (memory 1)", "does not fit the host"),
        (
            growing.replace("drop", "call $need").replace(
                "(start",
                "(func $need (param i32) (if (i32.eq (local.get 0) (i32.const -1)) (then unreachable))) (start",
            ),
            "the component needs 14 MiB of memory to start, but its limit is 8 MiB",
        ),
        (breaking, "the component cannot start: trapped: wasm trap: wasm `unreachable` instruction executed"),
    ] {
        let (status, answer) = host.push(component("0.1", &module)?).await?;
        println!("{status} {answer}");
        assert_eq!((status, &answer["code"]), (422, &json!("rejected")), "{answer}");
        assert!(answer["message"].as_str().is_some_and(|message| message.contains(says)), "{says}: {answer}");
    }
    // The last one continues without the memory, so it starts.
    for module in [running(FINE), growing] {
        assert_eq!(host.push(component("0.1", &module)?).await?.0, 200);
    }
    Ok(())
}

#[tokio::test]
async fn a_guest_that_exits_uses_up_attempts_and_is_quarantined() -> anyhow::Result<()> {
    let world = World::new().await?;
    let rule = [
        ("PATCHBAY_QUARANTINE_CRASHES", "4"),
        ("PATCHBAY_QUARANTINE_CALLS", "8"),
        ("PATCHBAY_QUARANTINE_JOBS", "2"),
    ];
    let host = world.host(&rule).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let id = host
        .add("hostileQueue", json!({ "name": "exit-0", "attempts": 2 }))
        .await?;
    let story = host.job_in("hostileQueue", &id, "failed").await?;
    assert_eq!(story["job"]["attemptsMade"], 2, "{story}");
    assert_eq!(
        story["job"]["failedReason"],
        "trapped: it called exit(0) instead of returning"
    );
    for name in ["random", "handles"] {
        host.add("hostileQueue", json!({ "name": name })).await?;
    }
    until(Duration::from_secs(20), "the quarantine", async || {
        let (_, plugin) = host.get("/api/admin/plugins/hostile/status").await?;
        Ok((!plugin["data"]["quarantined"].is_null()).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_job_that_is_deferred_for_no_time_waits_longer_each_time() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let job = json!({ "name": "fail", "data": { "retry": "defer", "ms": 0 } });
    let id = host.add("hostileQueue", job).await?;
    let path = format!("/api/admin/queues/hostileQueue/jobs/{id}");
    let attempts = until(Duration::from_secs(30), "three starts", async || {
        let (_, story) = host.get(&path).await?;
        let attempts = story["data"]["attempts"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        Ok((attempts.len() >= 3).then_some(attempts))
    })
    .await?;
    let mut started = Vec::new();
    for attempt in &attempts {
        assert_eq!(attempt["verdict"], "defer", "{attempt}");
        let at = attempt["startedAt"].as_str().context("a time")?;
        started.push(chrono::DateTime::parse_from_rfc3339(at)?);
    }
    started.sort();
    let waits: Vec<i64> = started
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).num_milliseconds())
        .collect();
    println!("{waits:?}");
    assert!(waits[0] >= 1_000 && waits[1] >= 2_000, "{waits:?}");
    let log = host.log.lock().expect("no writer panics").clone();
    assert!(
        log.contains("The plugin deferred the job for less than the minimum"),
        "it is said"
    );
    Ok(())
}
