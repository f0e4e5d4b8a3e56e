//! The error codes of the API and the command line: what each means, and what to do.
//!
//! docs/errors.md is made from this table; the test `structure` fails for a code that is not in it.

/// An error code.
#[derive(Debug, Clone, Copy)]
pub struct ErrorCode {
    /// Stable, in kebab-case.
    pub code: &'static str,
    /// HTTP status with which the API answers; 0 for codes of the command line only.
    pub status: u16,
    /// A message as a client may see it.
    pub message: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do next.
    pub next: &'static str,
}

const fn code(
    code: &'static str,
    status: u16,
    message: &'static str,
    meaning: &'static str,
    next: &'static str,
) -> ErrorCode {
    ErrorCode {
        code,
        status,
        message,
        meaning,
        next,
    }
}

/// Every code, sorted. Failures that plugins declare have codes of their own, which are not here.
pub const ERRORS: &[ErrorCode] = &[
    code(
        "breaker-open",
        503,
        "Calls to https://api.example:443 are refused while its breaker is open. See: patchbay breaker list",
        "An outside service failed several times, so that the host does not call it for a while.",
        "Wait for the time in the header Retry-After. See `patchbay breaker list`; if the service works again, `patchbay breaker close`.",
    ),
    code(
        "conflict",
        409,
        "Job 42 is completed, not delayed",
        "The request does not fit the present state of what it is about. Nothing was changed.",
        "Read the message, look at the present state, and repeat what still makes sense.",
    ),
    code(
        "cross-site",
        403,
        "The request comes from another web site",
        "A browser sent the request from a page of another origin.",
        "If that page is yours, add its origin to `http.allowed_origins`.",
    ),
    code(
        "damaged",
        409,
        "The stored file of revision 1f2e is not the one that was staged",
        "A plugin's file in Postgres has changed since it was pushed.",
        "Push the file again, and find out who changed the database.",
    ),
    code(
        "damaged-data",
        500,
        "bull:emailQueue:failed: WRONGTYPE",
        "A key in Redis does not hold what BullMQ keeps there.",
        "`patchbay queue why QUEUE` names the key and how to remove it.",
    ),
    code(
        "database-rights",
        409,
        "Plugin clerk cannot have the rights that it asks for",
        "The plugin asks for rights on tables that the host's own login cannot give.",
        "An administrator of the database runs the statements in `details`; then activate again.",
    ),
    code(
        "deadline",
        504,
        "No answer within 30 s",
        "The plugin did not answer within its time limit.",
        "Try again. If it repeats, see `patchbay plugin status` and the host's log.",
    ),
    code(
        "does-not-fit",
        422,
        "The data does not fit the schema that plugin email declares for job send: /to is missing",
        "The plugin of the queue declares other jobs or other data. Nothing was added or changed.",
        "Fix what the message lists. To add it all the same: `--force`, or `\"force\": true`.",
    ),
    code(
        "failed",
        0,
        "cannot read /no/such/file",
        "A command failed for a reason without a code of its own.",
        "Read the message.",
    ),
    code(
        "forbidden",
        403,
        "No operator is configured: set BULL_BOARD_USERNAME and BULL_BOARD_PASSWORD",
        "Nobody may do this on this host.",
        "Do what the message says.",
    ),
    code(
        "host-fault",
        503,
        "No free slot within the time limit",
        "The host could not run the plugin now. It is not the plugin's fault.",
        "Try again after a moment.",
    ),
    code(
        "inactive",
        409,
        "email has no active revision: patchbay plugin activate email DIGEST",
        "The plugin exists, but takes no calls.",
        "Activate a revision.",
    ),
    code(
        "internal",
        500,
        "Internal Server Error",
        "A fault of the host. The details are in its log, under the request's correlation id.",
        "Look in the host's log for the value of the header x-correlation-id, and report what it says.",
    ),
    code(
        "invalid-configuration",
        0,
        "work.lock_s (from PATCHBAY_WORK_LOCK_S): must be a whole number from 2 to 3600, not \"0\"",
        "The configuration cannot be used.",
        "Correct the keys that the message names; `patchbay config` lists all.",
    ),
    code(
        "invalid-input",
        400,
        "limit: must be from 1 to 200",
        "The request cannot be understood, or a value is out of its range. Nothing was changed. The status is 422 for a body \
         that is JSON, but not of the expected form.",
        "Correct what the message names; docs/openapi.json has the ranges.",
    ),
    code(
        "invalid-manifest",
        0,
        "plugin.toml: limits.wall_ms: must be from 1 to 300000",
        "plugin.toml cannot be used.",
        "Correct what the message names; docs/plugins/README.md has every key.",
    ),
    code(
        "invalid-result",
        500,
        "The result is not JSON",
        "The plugin answered with something that the host does not accept.",
        "Report it to whoever writes the plugin.",
    ),
    code(
        "memory-limit",
        500,
        "The plugin needs more than its 64 MiB",
        "The plugin needed more memory than its manifest allows.",
        "Raise `limits.memory_mb` in plugin.toml, or let the plugin use less.",
    ),
    code(
        "method-not-allowed",
        405,
        "This path does not serve that method",
        "The path exists, but not for this HTTP method.",
        "See docs/openapi.json.",
    ),
    code(
        "mixed-fleet",
        409,
        "Not paused: with BullMQ 5 on the same queues, a pause by Patchbay would lose jobs",
        "The host is configured for workers of BullMQ 5, whose resume would lose jobs.",
        "Pause with the Node side's own `queue.pause()`, or stop the workers.",
    ),
    code(
        "no-operations",
        409,
        "The active revision of email exports no operations",
        "The plugin handles jobs only; it cannot be called.",
        "See `patchbay plugin status`.",
    ),
    code(
        "no-vault-key",
        409,
        "No key for secrets is configured",
        "Secrets cannot be sealed without a master key.",
        "Set `secrets.key_file` or PATCHBAY_SECRETS_KEY and restart the host.",
    ),
    code(
        "not-confirmed",
        428,
        "Nothing was done. This removes jobs of the queue, which cannot be undone. To confirm, send the same request with the \
         query parameter confirm=emailQueue",
        "The request destroys something, and does not confirm that.",
        "If you mean it: `--yes`, or the query parameter `confirm` with the name that the message says.",
    ),
    code(
        "not-found",
        404,
        "No plugin is called emial",
        "What the request is about does not exist.",
        "Check the name; the message often names the command that lists them.",
    ),
    code(
        "not-granted",
        409,
        "email asks for what it is not granted: \"smtp\"",
        "The revision asks for rights that no operator has granted. It was not activated.",
        "Read what it asks for, then activate with `--grant`, or `patchbay plugin grant`.",
    ),
    code(
        "not-patchbay",
        0,
        "What answers at http://127.0.0.1:8080 is not a Patchbay host (HTTP status 200)",
        "Another server answers at that address.",
        "Check --url or PATCHBAY_URL.",
    ),
    code(
        "quarantined",
        503,
        "email is quarantined since 2026-11-24T12:00:00Z: 10 of the last 10 calls crashed",
        "The plugin crashed too often, and takes no calls until somebody decides.",
        "Push and activate a corrected revision, roll back, or `patchbay plugin release`.",
    ),
    code(
        "rate-limited",
        429,
        "Too many failed logins from 127.0.0.1. Try again in 16 s",
        "Too many requests of this kind.",
        "Wait for the time in the header Retry-After.",
    ),
    code(
        "redis-full",
        507,
        "Redis is nearly full; new jobs are refused",
        "Redis has no memory for more jobs. Running jobs still settle.",
        "Remove old jobs with `patchbay queue clean`, or raise `maxmemory`.",
    ),
    code(
        "registry",
        0,
        "The registry answered with HTTP status 401",
        "The OCI registry refused, or cannot be reached.",
        "Check the name and the login; see docs/plugins/README.md.",
    ),
    code(
        "rejected",
        422,
        "The component imports 3 interfaces that plugin.toml does not ask for: secrets, kv, smtp",
        "The host does not accept the plugin's file. Nothing was staged.",
        "Correct the plugin as the message says, build it, and push it again.",
    ),
    code(
        "relay-denied",
        502,
        "The plugin relays a host that it may not call",
        "The plugin wanted to pass on an answer of a server that it has no right to call.",
        "Report it to whoever writes the plugin, or grant the host.",
    ),
    code(
        "request-timeout",
        408,
        "The body did not arrive within 30 s",
        "The body of the request came too slowly.",
        "Send it again over a better connection.",
    ),
    code(
        "too-large",
        413,
        "The body is larger than 2 MiB",
        "The body is larger than this operation accepts.",
        "Send less.",
    ),
    code(
        "trapped",
        500,
        "panicked at src/lib.rs:12:5: no phone (wasm trap: unreachable)",
        "The code of the plugin crashed.",
        "Report it to whoever writes the plugin; `patchbay dead-letter list` has the stack.",
    ),
    code(
        "unauthorized",
        401,
        "Operator credentials are needed, or those given are wrong",
        "The login is missing or wrong.",
        "Set PATCHBAY_USER and PATCHBAY_PASSWORD, or send HTTP Basic credentials.",
    ),
    code(
        "unavailable",
        503,
        "Postgres does not answer; try again",
        "Postgres, Redis or a part of the host cannot serve now. Nothing was done, unless the message says otherwise.",
        "Try again after a moment; see `patchbay status` and /readyz.",
    ),
    code(
        "unknown-queue",
        404,
        "No queue is called emialQueue. Did you mean emailQueue?",
        "Nobody knows the queue: no job, no plugin and no history has it.",
        "Check the name; to create it with its first job: `--new-queue`.",
    ),
    code(
        "unreachable",
        0,
        "No host answers at http://127.0.0.1:8080",
        "The command cannot connect to a host.",
        "Start one with `patchbay dev` or `patchbay serve`, or name another with --url or PATCHBAY_URL.",
    ),
    code(
        "untrusted",
        422,
        "The plugin is not signed by a key that this host trusts",
        "This host runs only plugins with a signature of certain keys.",
        "Sign it with `patchbay plugin sign`, or add the key to `plugins.trusted_keys`.",
    ),
    code(
        "upstream",
        502,
        "The payment service answered with HTTP status 500",
        "An outside service that the plugin needs did not answer as it should.",
        "Try again; see `patchbay breaker list`.",
    ),
    code(
        "usage",
        0,
        "unexpected argument '--forse' found",
        "The command line cannot be understood. The exit code is 2.",
        "See `--help` of the command.",
    ),
];

/// The page docs/errors.md.
pub fn page() -> String {
    let mut page = String::from(
        "# Error codes\n\nFind what an error means, and what to do next. A command prints the code in parentheses behind the message, \
         or with `--json` as `code`; the API\nanswers with it in the envelope `{\"success\": false, \"code\", \"message\", \"details\"}`. \
         Match on the code, not on the message, which may change.\n\nFailures that a plugin declares pass through with the plugin's own code \
         and message. A \"–\" as status: only the command line has the code.\n\n\
         This page is made from `host/crates/api/src/errors.rs`.\n\n\
         | Code | HTTP | Message, for example | Meaning | What to do |\n|---|---|---|---|---|\n",
    );
    for error in ERRORS {
        let status = match error.status {
            0 => "–".to_owned(),
            status => status.to_string(),
        };
        let cell = |text: &str| text.replace('|', "\\|");
        page += &format!(
            "| `{}` | {status} | {} | {} | {} |\n",
            error.code,
            cell(error.message),
            cell(error.meaning),
            cell(error.next)
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_and_each_says_what_to_do() {
        assert!(ERRORS.is_sorted_by(|a, b| a.code < b.code));
        for error in ERRORS {
            let texts = [error.message, error.meaning, error.next];
            assert!(texts.iter().all(|text| !text.is_empty()), "{}", error.code);
            assert!(error.next.ends_with('.'), "{}", error.code);
        }
    }
}
