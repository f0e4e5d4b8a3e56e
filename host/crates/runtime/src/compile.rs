//! Compiles in a child process of the same binary: limited in time and memory, at low priority. Its
//! memory is freed when it exits.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use tokio::process::Command;

use crate::{LoadError, Rejection, RuntimeError, engine};

/// How to start the compiler: this same binary with a hidden subcommand.
#[derive(Debug, Clone)]
pub struct CompilerCommand {
    pub program: PathBuf,
    /// Arguments that precede input, output and memory limit.
    pub args: Vec<String>,
}

/// Compiles in a child process. Without a `command` (tests, benchmarks), compiles in this process.
pub(crate) async fn compile(
    component: &[u8],
    command: Option<&CompilerCommand>,
    limit: Duration,
    memory_bytes: u64,
) -> Result<Vec<u8>, LoadError> {
    let Some(command) = command else {
        let component = component.to_vec();
        let compiled = tokio::task::spawn_blocking(move || compile_here(&component)).await;
        return compiled.unwrap_or_else(|error| Err(Rejection::Compile(error.to_string()).into()));
    };
    let io = |source| RuntimeError::Io {
        what: "cannot run the compiler",
        source,
    };
    let dir = tempfile::tempdir().map_err(io)?;
    let (input, output) = (dir.path().join("in.wasm"), dir.path().join("out.cwasm"));
    tokio::fs::write(&input, component).await.map_err(io)?;
    let child = Command::new(&command.program)
        .args(&command.args)
        .arg(&input)
        .arg(&output)
        .arg(memory_bytes.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(io)?;
    let Ok(ended) = tokio::time::timeout(limit, child.wait_with_output()).await else {
        return Err(
            Rejection::Compile(format!("it took longer than {} s", limit.as_secs())).into(),
        );
    };
    let ended = ended.map_err(io)?;
    if !ended.status.success() {
        let text = String::from_utf8_lossy(&ended.stderr);
        let reason = match text.trim() {
            "" => format!(
                "the compiler ended with {} and no message, as when it exceeds its memory limit",
                ended.status
            ),
            text => text.lines().take(5).collect::<Vec<_>>().join(" "),
        };
        return Err(Rejection::Compile(reason).into());
    }
    Ok(tokio::fs::read(&output).await.map_err(io)?)
}

fn compile_here(component: &[u8]) -> Result<Vec<u8>, LoadError> {
    let engine = engine::compiler()?;
    Ok(engine
        .precompile_component(component)
        .map_err(|error| Rejection::Compile(format!("{error:#}")))?)
}

/// The hidden subcommand. Arguments: `<in> <out> <memory limit in bytes>`.
pub fn compile_child(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let [input, output, memory] = args.as_slice() else {
        eprintln!("usage: <component> <output> <memory bytes>");
        return ExitCode::from(2);
    };
    if let Some(bytes) = memory.to_str().and_then(|text| text.parse::<u64>().ok()) {
        let limit = rustix::process::Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        };
        // Both are best effort: without them the time limit still holds.
        let _ = rustix::process::setrlimit(rustix::process::Resource::As, limit);
    }
    let _ = rustix::process::nice(10);
    let compiled = std::fs::read(Path::new(input))
        .map_err(|error| error.to_string())
        .and_then(|component| compile_here(&component).map_err(|error| error.to_string()))
        .and_then(|code| {
            std::fs::write(Path::new(output), code).map_err(|error| error.to_string())
        });
    match compiled {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
