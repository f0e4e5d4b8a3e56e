//! This process: its signals, priority, name and limits.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::config::Config;
use crate::limits;

/// Signals that end a host. It listens from the start, because a supervisor that sees the host
/// running may signal at once.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// SIGHUP, when a terminal is closed; `None` where the parent has ignored it (`nohup`).
    hangup: Option<Signal>,
}

impl Signals {
    pub(crate) fn listen() -> std::io::Result<Self> {
        let (terminate, interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        let hangup = if hangup_is_ignored() {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        // Tools that send these signals to a Node backend (USR1 starts its debugger) would end a
        // host without draining. Listening once removes the default action.
        for harmless in [
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::alarm(),
        ] {
            drop(signal(harmless)?);
        }
        Ok(Self {
            terminate,
            interrupt,
            hangup,
        })
    }

    /// Returns after the first signal.
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
            _ = hangup => info!("SIGHUP: draining; the configuration is only read at a start"),
        }
    }
}

/// Reads the mask of ignored signals (proc_pid_status(5)). A handler of ours would change it.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 != 0)
}

/// Raises the limits that may be raised, and reports those that are still too small.
pub(crate) fn check_limits(config: &Config) {
    limits::raise_open_files();
    for problem in limits::problems(config) {
        warn!("{problem}");
    }
}

/// Where Linux groups processes by session (sched_autogroup, sched(7)), the lower priority of
/// guests' threads counts only within this process's group, and guests that compute can delay
/// Postgres on the same machine by seconds. So a session of its own, as a service manager gives, is
/// made nicer as a whole; a terminal's session belongs to others and is not changed.
pub(crate) fn yield_to_other_services() {
    if session_of_this_process() == Some(std::process::id()) {
        // If the file does not exist, there are no such groups.
        std::fs::write("/proc/self/autogroup", "5").ok();
    }
}

/// The sixth field of /proc/self/stat (proc(5)). Not `getsid`: it returns 0 where a container's
/// session was opened outside its process namespace, and rustix panics on that.
fn session_of_this_process() -> Option<u32> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the command in parentheses; it may contain parentheses itself.
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_ascii_whitespace().nth(3)?.parse().ok()
}

/// `hostname:pid`, as in records and lists of workers.
pub(crate) fn host_name() -> String {
    let system = rustix::system::uname();
    format!(
        "{}:{}",
        system.nodename().to_string_lossy(),
        std::process::id()
    )
}
