//! Metrics of this process on Linux, under the names that all Prometheus client libraries use.
//! Values that cannot be read are left out.

use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Default)]
pub struct Process {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub threads: Option<u64>,
    pub open_files: Option<usize>,
    pub max_files: Option<u64>,
}

impl Process {
    /// Blocks, but reads only procfs: some tens of microseconds.
    pub fn read() -> Self {
        let mut process = std::fs::read_to_string("/proc/self/stat")
            .map(|stat| Self::parse(&stat))
            .unwrap_or_default();
        // One of them is the handle of the directory itself.
        process.open_files = std::fs::read_dir("/proc/self/fd")
            .map(|files| files.count().saturating_sub(1))
            .ok();
        process.max_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        process
    }

    /// proc_pid_stat(5); the name in parentheses may contain anything, so fields are counted from
    /// its end: the first is number 3.
    fn parse(stat: &str) -> Self {
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace()
            .collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        Self {
            cpu_seconds: field(14)
                .zip(field(15))
                .map(|(user, system)| (user + system) as f64 / ticks),
            threads: field(20),
            virtual_bytes: field(23),
            resident_bytes: field(24).map(|pages| pages * rustix::param::page_size() as u64),
            open_files: None,
            max_files: None,
        }
    }
}

pub fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_parenthesis_in_its_name_is_read_all_the_same() {
        let rest =
            "S 1 2 2 0 -1 4194560 1 0 0 0 250 150 0 0 20 0 7 0 100 1000000 25 18446744073709551615";
        let process = Process::parse(&format!("42 (a) b) {rest}"));
        assert_eq!(
            (process.threads, process.virtual_bytes),
            (Some(7), Some(1_000_000))
        );
        assert_eq!(
            process.resident_bytes,
            Some(25 * rustix::param::page_size() as u64)
        );
        assert_eq!(
            process.cpu_seconds,
            Some(400.0 / rustix::param::clock_ticks_per_second() as f64)
        );
    }

    #[test]
    fn our_own_process_has_memory_and_files() {
        let process = Process::read();
        assert!(
            process.resident_bytes.is_some_and(|bytes| bytes > 100_000),
            "{process:?}"
        );
        assert!(
            process.open_files.is_some_and(|files| files > 2),
            "{process:?}"
        );
    }
}
