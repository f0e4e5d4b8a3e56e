use patchbay_app::queues::diagnosis;
use patchbay_model::shell::word;
use patchbay_queue::{Broker, MAX_CLOCK_SKEW_MS, QueueError, Trouble};

use super::{Findings, LIMIT, Level};
use crate::config::Config;

pub(super) async fn check_redis(config: &Config, findings: &mut Findings) {
    const CHECK: &str = "redis";
    let mend = "check REDIS_URL (or REDIS_HOST, REDIS_PORT, REDIS_USERNAME, REDIS_PASSWORD, redis.sentinels), and that Redis runs";
    let connected = tokio::time::timeout(LIMIT, Broker::connect(config.redis.queues())).await;
    let queues = match connected {
        Ok(Ok(queues)) => queues,
        Ok(Err(QueueError::CannotServe { trouble, .. })) => {
            return findings.bad(CHECK, Level::Error, trouble.to_string(), trouble.next());
        }
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error)
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            return findings.bad(CHECK, Level::Error, format!("{error}{cause}"), mend);
        }
        Err(_) => return findings.bad(CHECK, Level::Error, "no answer in time", mend),
    };
    if let Some(trouble) = queues
        .look()
        .await
        .trouble
        .filter(|trouble| !matches!(trouble, Trouble::Evicts(_)))
    {
        findings.bad(CHECK, Level::Error, trouble.to_string(), trouble.next());
        if !matches!(trouble, Trouble::Rights(_)) {
            return;
        }
    }
    check_redis_rights(&queues, findings).await;
    let asked = tokio::time::timeout(LIMIT, async {
        let facts = queues.server().await?;
        let names = queues.list().await?;
        let taken = queues.taken_keys(&names).await?;
        Ok::<_, QueueError>((facts, names.into_iter().zip(taken)))
    });
    let (facts, taken) = match asked.await {
        Ok(Ok(facts)) => facts,
        Ok(Err(error)) => return findings.bad(CHECK, Level::Error, error.to_string(), mend),
        Err(_) => return findings.bad(CHECK, Level::Error, "no answer in time", mend),
    };
    let major: u32 = facts
        .version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .unwrap_or(0);
    if major < 7 {
        findings.bad(
            CHECK,
            Level::Warning,
            format!("version {}", facts.version),
            "Patchbay is tested with Redis 7",
        );
    } else {
        findings.ok(CHECK, format!("version {}", facts.version));
    }
    if facts.aof_enabled {
        findings.ok(CHECK, "append-only file is on");
    } else {
        let mend = "set appendonly yes and appendfsync everysec: without it a restart of Redis loses accepted jobs";
        findings.bad(CHECK, Level::Warning, "append-only file is off", mend);
    }
    match &facts.trouble {
        _ if facts.maxmemory_policy == "noeviction" => {
            findings.ok(CHECK, "maxmemory-policy is noeviction")
        }
        Some(trouble @ Trouble::Evicts(_)) => {
            findings.bad(CHECK, Level::Error, trouble.to_string(), trouble.next());
        }
        _ => {
            let message = format!(
                "maxmemory-policy is {}, but maxmemory is not set",
                facts.maxmemory_policy
            );
            let mend = "set maxmemory-policy noeviction: with a limit, any other policy deletes jobs or locks";
            findings.bad(CHECK, Level::Warning, message, mend);
        }
    }
    let used_mb = facts.used_memory >> 20;
    if facts.maxmemory == 0 {
        findings.ok(CHECK, format!("{used_mb} MiB used, no limit"));
    } else if facts.used_memory * 4 > facts.maxmemory * 3 {
        let message = format!("{used_mb} of {} MiB used", facts.maxmemory >> 20);
        findings.bad(
            CHECK,
            Level::Warning,
            message,
            "above 85 % new jobs are refused: remove finished jobs or raise maxmemory",
        );
    } else {
        findings.ok(
            CHECK,
            format!("{used_mb} of {} MiB used", facts.maxmemory >> 20),
        );
    }
    for (queue, taken) in taken {
        for key in taken {
            let (stands, next) = diagnosis::taken(&queue, &key);
            findings.bad(
                CHECK,
                Level::Error,
                format!("queue {}: {stands}", word(queue.as_str())),
                next,
            );
        }
    }
    match facts.clock_skew_ms.saturating_abs() {
        0..=500 => findings.ok("clock", format!("{} ms from Redis's", facts.clock_skew_ms)),
        off => {
            let level = if off.unsigned_abs() > MAX_CLOCK_SKEW_MS {
                Level::Error
            } else {
                Level::Warning
            };
            let message = format!("{} ms from Redis's", facts.clock_skew_ms);
            findings.bad(
                "clock",
                level,
                message,
                "synchronise both machines with NTP: delays and locks depend on it",
            );
        }
    }
}

async fn check_redis_rights(queues: &Broker, findings: &mut Findings) {
    const CHECK: &str = "redis";
    match tokio::time::timeout(LIMIT, queues.missing_rights()).await {
        Ok(Ok(missing)) if missing.is_empty() => {
            findings.ok(CHECK, "the user has every right that Patchbay needs")
        }
        Ok(Ok(missing)) => {
            let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let missing = missing.join(" ");
            let mend = format!("ACL SETUSER <user> {missing}");
            findings.bad(
                CHECK,
                Level::Error,
                format!("the user lacks rights: {missing}"),
                mend,
            );
        }
        Ok(Err(error)) => findings.bad(
            CHECK,
            Level::Warning,
            format!("rights are unknown: {error}"),
            "try again",
        ),
        Err(_) => findings.bad(
            CHECK,
            Level::Warning,
            "rights are unknown: no answer in time",
            "try again",
        ),
    }
}
