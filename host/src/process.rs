//! This process among others: its signals, its priority, its name, and what the system lets it have.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::config::Config;
use crate::limits;

/// What ends a host. Listened to from the start: whoever sees that we are up may signal at once.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// A terminal that is closed; absent where whoever started us wants us to outlive it (`nohup`).
    hangup: Option<Signal>,
}

impl Signals {
    pub(crate) fn listen() -> std::io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let hangup = if hangup_is_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
        // Whoever sends them to a Node backend (its debugger starts with USR1) would end a host without draining. What has been listened to
        // once has no default action any more.
        for harmless in [SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::alarm()] {
            drop(signal(harmless)?);
        }
        Ok(Self { terminate, interrupt, hangup })
    }

    /// Until one comes.
    pub(crate) async fn wait(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => info!("SIGTERM: draining"),
            _ = self.interrupt.recv() => info!("SIGINT: draining"),
            _ = hangup => info!("SIGHUP: draining; the configuration is read at a start only"),
        }
    }
}

/// By the mask of ignored signals (proc_pid_status(5)): a handler of ours would undo it.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

/// Raises what may be raised, and says what is too small all the same.
pub(crate) fn check_limits(config: &Config) {
    limits::raise_open_files();
    for problem in limits::problems(config) {
        warn!("{problem}");
    }
}

/// Where Linux groups processes by session (sched_autogroup, sched(7)), the lower priority of guests' threads counts among this process's
/// threads only, and spinning guests keep Postgres on the same machine waiting for up to seconds. A session of our own, as a service
/// manager gives, may be made nicer as a whole; one that belongs to a terminal is not ours to change.
pub(crate) fn yield_to_other_services() {
    if session_of_this_process() == Some(std::process::id()) {
        // Where there is no such file, there are no such groups.
        std::fs::write("/proc/self/autogroup", "5").ok();
    }
}

/// The sixth field of /proc/self/stat (proc(5)). Not `getsid`: it answers 0 where a container's session was opened outside its process
/// namespace, which rustix takes for impossible and panics.
fn session_of_this_process() -> Option<u32> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the command in parentheses and may hold anything, even parentheses.
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_ascii_whitespace().nth(3)?.parse().ok()
}

/// `hostname:pid`, as it stands in records and lists of workers.
pub(crate) fn host_name() -> String {
    let system = rustix::system::uname();
    format!("{}:{}", system.nodename().to_string_lossy(), std::process::id())
}
