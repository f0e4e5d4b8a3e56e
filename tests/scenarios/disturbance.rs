//! What disturbs a journey: the service outside is away, or the host is killed. Short where all
//! tests run, long for published figures.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::{Host, World, full_length, seed};

/// How long a service outside is away.
pub fn away() -> Duration {
    match full_length() {
        true => Duration::from_secs(60),
        false => Duration::from_secs(2),
    }
}

/// How often a host is killed.
pub fn kills() -> usize {
    match full_length() {
        true => 20,
        false => 2,
    }
}

/// Kills hosts at random moments.
pub struct Killer(StdRng);

impl Killer {
    pub fn new() -> Self {
        Self(StdRng::seed_from_u64(seed()))
    }

    /// Kills the host, a random moment of this time from now, and starts it again with `env`.
    /// Returns the moment.
    pub async fn kills(
        &mut self,
        world: &World,
        host: &mut Host,
        env: &[(&str, &str)],
        within_ms: u64,
    ) -> anyhow::Result<Duration> {
        let moment = self.kills_only(host, within_ms).await?;
        *host = world.host(env).await?;
        Ok(moment)
    }

    /// As [`kills`](Self::kills), and leaves it dead.
    pub async fn kills_only(
        &mut self,
        host: &mut Host,
        within_ms: u64,
    ) -> anyhow::Result<Duration> {
        let moment = Duration::from_millis(self.0.random_range(0..within_ms));
        // The moment is what is tested.
        tokio::time::sleep(moment).await;
        host.child.kill().await?;
        Ok(moment)
    }
}
