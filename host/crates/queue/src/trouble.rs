//! Why a Redis that may well answer cannot serve. Recognised from its replies, so that such a reply
//! is never taken for damaged data.

use std::fmt;

use redis::{ErrorKind, RedisError};

/// The trouble of Redis as a whole, whatever the request was. Its text is safe for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// No answer, or no connection.
    Away,
    /// Redis has restarted and is reading its data.
    Loading,
    /// A replica, or a master that a failover has demoted.
    Replica,
    /// A node of a cluster.
    Cluster,
    /// The port belongs to a Sentinel.
    Sentinel,
    /// The Sentinels answer, but name no server that itself says that it is the master.
    NoMaster,
    /// Wrong user or password, or none where one is needed.
    Login,
    /// The user lacks a right that Patchbay needs. Holds Redis's own words.
    Rights(String),
    /// A certificate is missing or not trusted, or only one side uses TLS. Holds rustls's words.
    Tls(String),
    /// The database number does not exist.
    Database,
    /// Redis could not write to its disk, and refuses writes until it can.
    Disk,
    /// Fewer replicas than `min-replicas-to-write` are connected.
    TooFewReplicas,
    /// Somebody's script has run for longer than `busy-reply-threshold`.
    Busy,
    /// `maxclients` is reached.
    TooManyClients,
    /// Redis does not know a command or refuses it for another reason. Holds its own words.
    Refused(String),
    /// Redis evicts keys when its memory is full. Holds the policy.
    Evicts(String),
}

impl Trouble {
    /// Stable, in kebab-case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Loading => "loading",
            Self::Replica => "replica",
            Self::Cluster => "cluster",
            Self::Sentinel => "sentinel",
            Self::NoMaster => "no-master",
            Self::Login => "login",
            Self::Rights(_) => "rights",
            Self::Tls(_) => "tls",
            Self::Database => "database-number",
            Self::Disk => "disk",
            Self::TooFewReplicas => "too-few-replicas",
            Self::Busy => "busy",
            Self::TooManyClients => "too-many-clients",
            Self::Refused(_) => "refused",
            Self::Evicts(_) => "evicts",
        }
    }

    /// What to do about it.
    pub fn next(&self) -> &'static str {
        match self {
            Self::Away => "Check that it runs and can be reached; jobs run again once it answers",
            Self::Loading => "Wait; jobs run again by themselves",
            Self::Replica => {
                "During a failover, wait some seconds: Patchbay reconnects by itself. Otherwise give Patchbay the master's address, or redis.sentinels"
            }
            Self::Cluster => {
                "Give Patchbay a Redis that is not a cluster: BullMQ's scripts and Patchbay's transactions touch keys of several slots"
            }
            Self::Sentinel => {
                "Set redis.sentinels to this address and redis.sentinel_master, and leave out redis.url"
            }
            Self::NoMaster => {
                "Compare redis.sentinel_master with what `SENTINEL MASTERS` says; during a failover, wait"
            }
            Self::Login => {
                "Compare redis.username and redis.password (or redis.url) with Redis's, then restart the host; a Redis that has reached maxclients gives the same answer"
            }
            Self::Rights(_) => {
                "Give the user the rights that docs/operations/infrastructure.md lists; patchbay doctor names what is missing"
            }
            Self::Tls(_) => {
                "Compare redis.tls, redis.ca_file, redis.cert_file and redis.key_file with Redis's; a host reads the files when it starts"
            }
            Self::Database => "Set redis.database to a number below `databases` of redis.conf",
            Self::Disk => "Make room on Redis's disk, or see its log; jobs run again by themselves",
            Self::TooFewReplicas => {
                "Find out why its replicas are not connected, or lower min-replicas-to-write; jobs run again by themselves"
            }
            Self::Busy => "Wait, or end that script with SCRIPT KILL",
            Self::TooManyClients => {
                "Raise maxclients, or find with CLIENT LIST who has so many connections"
            }
            Self::Refused(_) => {
                "Check that the address is Redis 7's own, with no command renamed; patchbay doctor shows more"
            }
            Self::Evicts(_) => "Set maxmemory-policy noeviction",
        }
    }

    /// Whether Redis serves all the same.
    pub fn serves(&self) -> bool {
        matches!(self, Self::Evicts(_))
    }

    /// From an error reply. `None` if the reply is about the requested data.
    pub(crate) fn of_reply(code: &str, detail: &str) -> Option<Self> {
        // Before Redis 7, an error inside a script is reported without a code; the inner code is in
        // the text.
        if code == "ERR"
            && let Some((_, inner)) = detail.split_once("@user_script")
            && let Some(start) = inner.find(" -")
        {
            let (code, detail) = inner[start + 2..]
                .split_once(' ')
                .unwrap_or((&inner[start + 2..], ""));
            return Self::of_reply(code, detail);
        }
        // The reason why a whole transaction did not run is in the text, with its code.
        if code == "EXECABORT"
            && let Some((_, inner)) = detail.split_once("because of: ")
        {
            let (code, detail) = inner.split_once(' ').unwrap_or((inner, ""));
            return Self::of_reply(code, detail);
        }
        let said = || said("", detail).trim().to_owned();
        Some(match code {
            "LOADING" => Self::Loading,
            // `UNBLOCKED` reaches a blocked client when a master becomes a replica.
            "READONLY" | "MASTERDOWN" | "UNBLOCKED" => Self::Replica,
            "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "CROSSSLOT" => Self::Cluster,
            "NOAUTH" | "WRONGPASS" | "DENIED" => Self::Login,
            "NOPERM" => Self::Rights(said()),
            "MISCONF" => Self::Disk,
            "NOREPLICAS" => Self::TooFewReplicas,
            "BUSY" => Self::Busy,
            "EXECABORT" => Self::Refused(said()),
            "ERR" => Self::of_text(detail, said)?,
            _ => return None,
        })
    }

    /// Replies without a code of their own. The texts are from Redis (server.c, script.c,
    /// networking.c; 6.0 to 8).
    fn of_text(text: &str, said: impl FnOnce() -> String) -> Option<Self> {
        let is = |part: &str| text.contains(part);
        Some(
            if is("unauthenticated multibulk length") || is("unauthenticated bulk length") {
                // A command of more than ten words, or a long one, on a connection that has not
                // logged in.
                Self::Login
            } else if is("unknown command") || is("nknown subcommand") {
                Self::Refused(said())
            } else if is("max number of clients") {
                Self::TooManyClients
            } else if is("The user executing the script") || is("ACL failure in script") {
                Self::Rights(said())
            } else if is("cluster node")
                || is("hash to the same slot")
                || is("not allowed in cluster mode")
            {
                Self::Cluster
            } else if is("DB index is out of range") || is("invalid DB index") {
                Self::Database
            } else {
                return None;
            },
        )
    }

    /// From an error that is no reply, or whose text the library has wrapped.
    pub(crate) fn of_kind(error: &RedisError) -> Option<Self> {
        match error.kind() {
            ErrorKind::AuthenticationFailed => Some(Self::Login),
            ErrorKind::MasterNameNotFoundBySentinel
            | ErrorKind::NoValidReplicasFoundBySentinel
            | ErrorKind::EmptySentinelList => Some(Self::NoMaster),
            ErrorKind::Io => {
                let text = error.to_string();
                let is_tls = ["certificate", "fatal alert", "corrupt message"]
                    .iter()
                    .any(|words| text.contains(words));
                is_tls.then_some(Self::Tls(text))
            }
            ErrorKind::Server(_) | ErrorKind::Extension => {
                Self::of_text(&error.to_string(), String::new)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detailed = |f: &mut fmt::Formatter<'_>, text: &str, detail: &str| match detail {
            "" => f.write_str(text),
            detail => write!(f, "{text}: {detail}"),
        };
        match self {
            Self::Away => f.write_str("Redis does not answer"),
            Self::Loading => f.write_str("Redis has restarted and still reads its data"),
            Self::Replica => f.write_str("This Redis is a replica and takes no writes"),
            Self::Cluster => f.write_str("This Redis is a cluster, which Patchbay cannot use"),
            Self::Sentinel => f.write_str("This is the port of a Sentinel, not of Redis"),
            Self::NoMaster => f.write_str("No Sentinel names a master that can be reached and says that it is one"),
            Self::Login => f.write_str("Redis refuses the login: user or password is wrong"),
            Self::Rights(detail) => detailed(f, "Redis's user lacks a right", detail),
            Self::Tls(detail) => detailed(f, "TLS with Redis fails", detail),
            Self::Database => f.write_str("Redis has no database of the configured number"),
            Self::Disk => f.write_str("Redis takes no writes because it could not write to its disk"),
            Self::TooFewReplicas => f.write_str(
                "Redis takes no writes because fewer replicas than min-replicas-to-write are connected to it",
            ),
            Self::Busy => f.write_str("Redis is busy with a script that has run for too long"),
            Self::TooManyClients => f.write_str("Redis takes no more connections: maxclients is reached"),
            Self::Refused(detail) => detailed(f, "Redis refuses a command", detail),
            Self::Evicts(policy) if policy.starts_with("volatile") => write!(
                f,
                "Redis's maxmemory-policy is {policy}: when its memory is full it deletes keys that expire, locks of running jobs among them, and jobs run twice"
            ),
            Self::Evicts(policy) => {
                write!(f, "Redis's maxmemory-policy is {policy}: when its memory is full it deletes jobs")
            }
        }
    }
}

/// Redis's words, without the position in the script.
pub(crate) fn said(code: &str, detail: &str) -> String {
    let detail = detail.split(" script: ").next().unwrap_or_default();
    format!("{code} {detail}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_met_is_told_whichever_redis_ran_it() {
        let of = |detail: &str| Trouble::of_reply("ERR", detail);
        let before_7 = "Error running script (call to f_3): @user_script:12: @user_script: 12: -READONLY You can't write";
        assert_eq!(of(before_7), Some(Trouble::Replica));
        let in_7_0 = "The user executing the script can't run this command or subcommand script: 1f, on @user_script:1.";
        assert!(
            matches!(of(in_7_0), Some(Trouble::Rights(text)) if !text.contains("@user_script"))
        );
        let of_transaction = |detail| Trouble::of_reply("EXECABORT", detail);
        let exec = "Transaction discarded because of: NOPERM this user has no permissions to run the 'exec' command";
        assert!(matches!(of_transaction(exec), Some(Trouble::Rights(_))));
        let demoted = "Transaction discarded because of: READONLY You can't write against a read only replica.";
        assert_eq!(of_transaction(demoted), Some(Trouble::Replica));
        let slot = "Script attempted to access a non local key in a cluster node script: 1f, on @user_script:1.";
        assert_eq!(of(slot), Some(Trouble::Cluster));
        assert_eq!(
            of("hash value is not an integer script: 1f, on @user_script:9."),
            None
        );
    }
}
