//! `patchbay dev --watch`: saving a file swaps the plugin, unless the source does not compile.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::dev::{forget, interrupt, json_of, patchbay, up};
use crate::harness::{repository, until};

/// Time for a build on two busy processors.
const PATIENCE: Duration = Duration::from_secs(180);

/// A plugin in its own folder: the placeholder, under another name, for one queue.
fn project(dir: &Path) -> anyhow::Result<PathBuf> {
    let plugins = repository().join("plugins").canonicalize()?;
    std::fs::create_dir_all(dir.join("src"))?;
    std::fs::copy(plugins.join("echo/src/lib.rs"), dir.join("src/lib.rs"))?;
    // Reuses builds of the plugins' workspace: the same versions, profile and kinds of crates.
    std::fs::copy(plugins.join("Cargo.lock"), dir.join("Cargo.lock"))?;
    let workspace = std::fs::read_to_string(plugins.join("Cargo.toml"))?;
    let profile = workspace.find("[profile.release]").context("a profile")?;
    let sdk = plugins.join("sdk");
    let manifest = format!(
        "[workspace]\n[package]\nname = \"watched\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n\
         [dependencies]\npatchbay-plugin = {{ path = \"{}\" }}\n{}",
        sdk.display(),
        &workspace[profile..]
    );
    std::fs::write(dir.join("Cargo.toml"), manifest)?;
    let plugin = "name = \"watched\"\nversion = \"0.1.0\"\nwit = \"0.1\"\n[build]\nwatch = [\"src\"]\n[[queues]]\nname = \"watchedQueue\"\n";
    std::fs::write(dir.join("plugin.toml"), plugin)?;
    Ok(dir.join("src/lib.rs"))
}

fn start(dir: &Path, watched: &Path) -> anyhow::Result<(Child, Arc<Mutex<String>>)> {
    let mut command = patchbay(dir);
    command
        .args(["dev", "--plugins", "none", "--watch"])
        .arg(watched);
    for name in ["HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.env(
        "CARGO_TARGET_DIR",
        repository().canonicalize()?.join("plugins/target"),
    );
    let mut dev = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let log = Arc::new(Mutex::new(String::new()));
    let (said, mut lines) = (
        Arc::clone(&log),
        BufReader::new(dev.stderr.take().context("stderr")?).lines(),
    );
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            eprintln!("dev: {line}");
            let mut said = said.lock().expect("no writer panics");
            said.push_str(&line);
            said.push('\n');
        }
    });
    Ok((dev, log))
}

/// The log from character `from` on, once it contains `wanted`.
async fn says(log: &Mutex<String>, from: usize, wanted: &str) -> anyhow::Result<String> {
    until(PATIENCE, wanted, async || {
        let said = log.lock().expect("no writer panics");
        Ok(said[from..]
            .contains(wanted)
            .then(|| said[from..].to_owned()))
    })
    .await
}

/// As editors do it: a new file replaces the old one.
fn save(file: &Path, text: &str) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, file)?)
}

fn length(log: &Mutex<String>) -> usize {
    log.lock().expect("no writer panics").len()
}

/// The result of a job that runs now.
async fn result(dir: &Path) -> anyhow::Result<Value> {
    let added = json_of(dir, &["job", "add", "watchedQueue", "any", r#"{"n":1}"#]).await?;
    let id = added["id"].as_str().context("an id")?.to_owned();
    until(Duration::from_secs(60), "the job", async || {
        let shown = json_of(dir, &["job", "show", "watchedQueue", &id]).await?;
        let job = &shown["job"];
        Ok((job["state"] == "completed").then(|| job["returnValue"].clone()))
    })
    .await
}

#[tokio::test]
async fn a_saved_change_is_swapped_in_and_a_broken_one_is_not() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let dir = home.path().canonicalize()?;
    let watched = dir.join("watched");
    let source = project(&watched)?;
    let (mut dev, log) = start(&dir, &watched)?;
    up(&mut dev).await?;
    says(&log, 0, "watched 0.1.0 (").await?;
    assert_eq!(result(&dir).await?["placeholder"], json!(true));

    let original = std::fs::read_to_string(&source)?;
    let from = length(&log);
    save(
        &source,
        &original.replace("\"placeholder\": true", "\"placeholder\": \"changed\""),
    )?;
    let said = says(&log, from, ") is active (built in ").await?;
    assert!(said.contains("swapped in"), "{said}");
    assert_eq!(result(&dir).await?["placeholder"], json!("changed"));

    let from = length(&log);
    save(
        &source,
        &original.replace("\"placeholder\": true", "\"placeholder\": no_such_name"),
    )?;
    let said = says(&log, from, "not replaced after").await?;
    assert!(
        said.contains("cannot find value `no_such_name`"),
        "the compiler's words: {said}"
    );
    assert!(
        said.contains("the previous revision keeps running"),
        "{said}"
    );
    assert_eq!(
        result(&dir).await?["placeholder"],
        json!("changed"),
        "the incumbent goes on"
    );

    let from = length(&log);
    let manifest = std::fs::read_to_string(watched.join("plugin.toml"))?;
    save(
        &watched.join("plugin.toml"),
        &manifest.replace("version =", "verzion ="),
    )?;
    let said = says(&log, from, "verzion").await?;
    assert!(said.contains("not replaced after"), "{said}");
    assert_eq!(result(&dir).await?["placeholder"], json!("changed"));
    let from = length(&log);
    save(
        &watched.join("plugin.toml"),
        &manifest.replace("0.1.0", "0.2.0"),
    )?;
    save(
        &source,
        &original.replace("\"placeholder\": true", "\"placeholder\": \"mended\""),
    )?;
    says(&log, from, "watched 0.2.0 (").await?;
    until(PATIENCE, "the mended code", async || {
        Ok((result(&dir).await?["placeholder"] == json!("mended")).then_some(()))
    })
    .await?;
    let revisions = json_of(&dir, &["plugin", "revisions", "watched"]).await?;
    let active: Vec<&Value> = revisions
        .as_array()
        .context("a list")?
        .iter()
        .filter(|revision| revision["state"] == "active")
        .collect();
    assert_eq!((active.len(), &active[0]["version"]), (1, &json!("0.2.0")));
    interrupt(dev).await?;
    forget(&dir);
    Ok(())
}

#[tokio::test]
async fn ctrl_c_ends_a_build_and_all_that_it_has_started() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let dir = home.path().canonicalize()?;
    let watched = dir.join("watched");
    std::fs::create_dir(&watched)?;
    // The build is a command, in any language. This one starts a process, prints its id and hangs.
    let plugin = "name = \"watched\"\nversion = \"0.1.0\"\nwit = \"0.1\"\n\
        [build]\ncommand = \"sleep 600 & echo $! > pid.tmp; mv pid.tmp pid; wait\"\ncomponent = \"out/watched.wasm\"\nwatch = [\"plugin.toml\"]\n";
    std::fs::write(watched.join("plugin.toml"), plugin)?;
    let (mut dev, _) = start(&dir, &watched)?;
    up(&mut dev).await?;
    let pid = until(PATIENCE, "the build's process", async || {
        Ok(std::fs::read_to_string(watched.join("pid")).ok())
    });
    let pid = rustix::process::Pid::from_raw(pid.await?.trim().parse()?).context("a pid")?;
    rustix::process::test_kill_process(pid).context("it runs")?;
    interrupt(dev).await?;
    forget(&dir);
    until(Duration::from_secs(10), "its end", async || {
        // A zombie whose parent has ended waits only for the system.
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
            .unwrap_or_default();
        Ok((state.is_empty() || state.contains(") Z ")).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_folder_that_is_no_plugin_is_refused_before_anything_starts() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let dir = home.path().canonicalize()?;
    for (args, reason) in [
        (&["--watch"][..], "nothing to watch"),
        (&["--watch", "here"], "cannot read here/plugin.toml"),
    ] {
        let output = patchbay(&dir)
            .args(["dev", "--plugins", "none"])
            .args(args)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "{said}");
        assert!(!said.contains("starting"), "{said}");
    }
    Ok(())
}
