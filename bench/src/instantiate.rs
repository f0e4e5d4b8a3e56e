//! One call in a fresh instance, beside a fresh plugin of Extism. No queue, no database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use patchbay_runtime::{Runtime, RuntimeConfig};

use crate::job_call::call;
use crate::statistics::{Spread, percentile, verdict};
use crate::world::limits;

/// Calls per sample.
const CALLS: usize = 300;

/// The least that Extism can call; ours is a component with its whole standard library.
const EXTISM_NOOP: &str =
    r#"(module (memory (export "memory") 17) (func (export "noop") (result i32) (i32.const 0)))"#;

pub async fn run(guest: &[u8], pairs: usize) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let config = RuntimeConfig {
        cache_dir: dir.path().join("cache"),
        compiler: None,
        compile_timeout: Duration::from_secs(120),
        compile_memory_bytes: 4 << 30,
        max_calls: 100,
        worker_threads: 2,
        limits: limits(),
        draft_wit: false,
        cache_key: [7; 32],
    };
    let runtime = Runtime::new(config, patchbay_capability::link)?;
    let revision = runtime.load(guest).await?;
    let manifest = extism::Manifest::new([extism::Wasm::data(wat::parse_str(EXTISM_NOOP)?)]);
    let compiled =
        extism::CompiledPlugin::new(extism::PluginBuilder::new(manifest).with_wasi(true))?;
    let payload = "x".repeat(500);
    let data = format!(r#"{{"filler":"{payload}"}}"#);

    let (mut ours, mut extism) = (Vec::new(), Vec::new());
    for pair in 0..=pairs {
        // Each on a thread of its own kind: ours where workers run jobs, Extism's on the caller's.
        let (called, payload_of_ours) = (Arc::clone(&revision), data.clone());
        let ours_here = async move {
            let mut times = Vec::with_capacity(CALLS);
            for _ in 0..CALLS {
                let started = Instant::now();
                let report = called.run_job(call("noop", &payload_of_ours), None).await;
                times.push(started.elapsed().as_secs_f64() * 1e6);
                anyhow::ensure!(report.outcome.reason().is_none(), "{:?}", report.outcome);
            }
            Ok(times)
        };
        let a = runtime.guests().spawn(ours_here).await??;
        let b = tokio::task::block_in_place(|| -> anyhow::Result<Vec<f64>> {
            (0..CALLS)
                .map(|_| {
                    let started = Instant::now();
                    let mut plugin = extism::Plugin::new_from_compiled(&compiled)?;
                    plugin.call::<&str, &[u8]>("noop", &payload)?;
                    drop(plugin);
                    Ok(started.elapsed().as_secs_f64() * 1e6)
                })
                .collect()
        })?;
        if pair > 0 {
            ours.push(a);
            extism.push(b);
        }
    }
    println!("instantiate and call a no-op, fresh each time ({CALLS} calls per sample), µs");
    for (name, q) in [("p50", 0.5), ("p99", 0.99)] {
        let of = |samples: &[Vec<f64>]| -> Vec<f64> {
            samples
                .iter()
                .map(|times| percentile(times.clone(), q))
                .collect()
        };
        let (a, b) = (of(&ours), of(&extism));
        let ratio = Spread::of(a.iter().zip(&b).map(|(a, b)| a / b).collect());
        let target = if name == "p50" {
            format!("  {}", verdict(ratio.median, 0.2, false))
        } else {
            String::new()
        };
        println!(
            "  {name}: ours {}, extism {}, ours / extism {ratio}{target}",
            Spread::of(a),
            Spread::of(b)
        );
    }
    Ok(())
}
