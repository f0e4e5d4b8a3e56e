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
        "accounts-off",
        404,
        "This host serves no accounts. To change that, set people.enabled to true",
        "The request is about accounts of API clients, and `people.enabled` is false.",
        "Set `people.enabled` and `secrets.key_file`, and restart the host (docs/operations/accounts.md).",
    ),
    code(
        "answer-not-kept",
        409,
        "A request with this Idempotency-Key was answered before, and its answer was not kept. Do not send it again; look up what it did",
        "A route of a plugin has answered a request with this key. The answer was larger than 256 KiB, kept answers took as much of Redis as they may (`routes.kept_answers_per_caller_mb`), Redis was nearly full, or the master key was replaced since.",
        "Look up what the first request did. For a new request, make a new key (docs/plugins/routes.md).",
    ),
    code(
        "bad-credentials",
        502,
        "A server of another company refused the credentials of this host",
        "An outside service that the plugin asked, or whose content a route relays, answered 401 or 403.",
        "Look which secret the plugin uses (`patchbay secret list PLUGIN`), ask that service for a new one, and set it: `patchbay secret set PLUGIN NAME`.",
    ),
    code(
        "basic-closed",
        403,
        "The shared login of the configuration (admin.username) no longer opens this: operators log in with a name of their own",
        "An owner has closed the login that everybody shares (`patchbay operator basic`).",
        "Log in with your own name: `patchbay login`. Without one, an owner makes you an operator: `patchbay operator create NAME --role ROLE`.",
    ),
    code(
        "blocked",
        403,
        "Account is blocked",
        "The password is right, but an operator or the previous backend has blocked the account.",
        "`patchbay user show ADDRESS` says who blocked it. If it was an operator: `patchbay user unblock ADDRESS`. If it was the previous backend: change the column `people.blocked_column` in its table.",
    ),
    code(
        "breaker-open",
        503,
        "Calls to https://api.example:443 are stopped for now, because it failed too often. See: patchbay breaker list",
        "An outside service failed several times. The host waits before it calls the service again, so that jobs do not use up their attempts.",
        "Wait: the message or the header `Retry-After` says how long. If the service works again: `patchbay breaker close PLUGIN HOST --reason TEXT`.",
    ),
    code(
        "busy",
        503,
        "This host answers as many requests to plugins as it can. Try again",
        "As many calls of routes run as the host allows (4 for each core) or the route (`max_concurrency`), the host holds as many bodies as it may (64 MiB, 8 MiB of one client), or as many answers of other servers are passed on (64; a client that has 16 of them gets `rate-limited`).",
        "Send the request again after `retry-after`. If it stays so: `patchbay route list` and the metric `patchbay_route_seconds` show which route is slow.",
    ),
    code(
        "conflict",
        409,
        "Job 42 is completed, not delayed",
        "The job, queue, plugin or schedule is not in a state that allows this. Nothing was changed.",
        "Look at its state (`patchbay job show`, `queue why`, `plugin status`), then decide whether you still need the command.",
    ),
    code(
        "cross-site",
        403,
        "The request comes from a page of https://other.example",
        "A web page from another address tried to use this API in a browser.",
        "If the page is yours, add its origin to `http.allowed_origins`, for example `https://tools.example`.",
    ),
    code(
        "damaged",
        409,
        "The stored file of revision 1f2e73a09c11 has changed since it was pushed",
        "A plugin's file in Postgres is not the one that was pushed. It was not activated.",
        "Push the original file again. Then find out who can write to the database.",
    ),
    code(
        "damaged-data",
        500,
        "The Redis key bull:emailQueue:failed has the wrong type",
        "A key in Redis does not hold what BullMQ keeps there. The queue may stand still until it is repaired.",
        "`patchbay queue why QUEUE` names the key, and says how to move it aside without losing jobs.",
    ),
    code(
        "data-hidden",
        403,
        "ada may not see data of jobs, and reveal=true asks for it",
        "The request shows, or filters by, data, results or logs of jobs. This operator, or this token, may not see them. Nothing was done.",
        "Leave out what needs data. Or ask an owner: `patchbay operator data NAME on`. For a token, make a new one with `--data`.",
    ),
    code(
        "database-rights",
        409,
        "The database login of plugin clerk cannot get the rights that the plugin asks for",
        "The plugin needs rights on tables that Patchbay's own database login may not give. It was not activated.",
        "Run the command again with `--json`. Give the SQL in `details` to an administrator of the database, then activate again.",
    ),
    code(
        "deadline",
        504,
        "The plugin did not answer within 30 s",
        "The plugin did not answer within its time limit. The call may have had an effect.",
        "Check for the effect before you repeat the call. If it happens often, see `patchbay plugin status PLUGIN` and the host's log.",
    ),
    code(
        "does-not-fit",
        422,
        "The data does not fit the schema that plugin email declares for job send: /to is missing",
        "The job's name or data is not what the plugin of this queue expects. Nothing was added or changed.",
        "Correct what the message lists. To add it anyway: `--force`, or `\"force\": true` in the API; the job will probably fail.",
    ),
    code(
        "erased",
        410,
        "The content of this request is erased: nothing can be judged or processed any more",
        "An operator has erased what a vendor sent to a webhook. Its event stays known, so that a repeat does nothing.",
        "If the event must be processed all the same, let the plugin fetch it from the vendor, or ask the vendor for it under another id.",
    ),
    code(
        "failed",
        0,
        "cannot read /no/such/file",
        "A command failed.",
        "The message says what failed. Correct that, then run the command again.",
    ),
    code(
        "forbidden",
        403,
        "This needs the role owner; ada has the role operator",
        "Whoever asks may not do this: the role is too low, the token lacks a scope, or nobody may until the host is configured. Nothing was done.",
        "Do what the message names. `patchbay whoami` shows role and scopes; an owner can change the role: `patchbay operator role NAME ROLE`.",
    ),
    code(
        "host-fault",
        503,
        "The host had no room to start the plugin within the time limit",
        "The host was too busy to run the plugin. The plugin did nothing wrong.",
        "Try again in a minute. If it continues, see `patchbay status` and the host's log.",
    ),
    code(
        "idempotency-key-required",
        400,
        "This route needs the header Idempotency-Key: a new one for each new request, and the same one when it is sent again",
        "The route is declared with `idempotency = \"required\"`, and the request has no key.",
        "Send the header `Idempotency-Key` with up to 255 ASCII characters, such as a UUID.",
    ),
    code(
        "idempotency-key-reused",
        422,
        "This Idempotency-Key was sent with another input before. Make a new key for a new request",
        "The same client has sent this key to this route in the last 24 hours, with another path, query or body.",
        "Correct the client: a key belongs to one request and its repeats.",
    ),
    code(
        "in-progress",
        409,
        "A request with this Idempotency-Key is still being answered. Send it again in a moment",
        "The first request with this key has not ended within the route's deadline, or its host was killed; then its claim ends some seconds later.",
        "Send the same request with the same key again after `retry-after`.",
    ),
    code(
        "inactive",
        409,
        "Plugin email has no active revision. Activate one: patchbay plugin activate email DIGEST",
        "The plugin is installed, but switched off.",
        "List its revisions with `patchbay plugin revisions PLUGIN`, then `patchbay plugin activate PLUGIN DIGEST`.",
    ),
    code(
        "internal",
        500,
        "Internal Server Error",
        "A fault in Patchbay. The details are in the host's log.",
        "Search the host's log for the id in the response header `x-correlation-id`. Report those lines to the Patchbay project, without personal data.",
    ),
    code(
        "invalid-api-key",
        401,
        "Invalid API key",
        "The request has no vendor key, or its key is unknown, disabled, revoked, expired or replaced. The answer is the same for each.",
        "Send the whole key, `vk_live_…`, as `X-API-Key`. `patchbay vendor-key list --over` shows the state of each key: enable it, or issue another one.",
    ),
    code(
        "invalid-configuration",
        0,
        "http.port: must be a whole number from 0 to 65535",
        "The configuration has a mistake, so the host or command does not start.",
        "Correct the keys that the message names. `patchbay config` lists all keys.",
    ),
    code(
        "invalid-credentials",
        401,
        "Invalid credentials",
        "No account or operator has this name, password and code, or the code was used before. The answer is the same for an unknown name.",
        "Correct them. An account sets a new password with `POST /api/auth/forgot-password`; an operator gets a link from an owner: `patchbay operator link NAME`.",
    ),
    code(
        "invalid-input",
        400,
        "limit: must be from 1 to 200",
        "A value is missing, has a wrong form or is out of its range. Nothing was changed. 422 instead of 400: the body is valid JSON, but a field is missing or wrong.",
        "Correct what the message names. `--help` of the command and docs/openapi.json list what is allowed.",
    ),
    code(
        "invalid-manifest",
        0,
        "plugin.toml: limits.wall_ms: must be from 1 to 300000",
        "plugin.toml has a mistake.",
        "Correct what the message names. docs/plugins/README.md lists every key.",
    ),
    code(
        "invalid-path",
        400,
        "The path has '//'. Write one '/' between two segments",
        "The path of a request to a plugin's route can be read in two ways: `//`, `.` and `..`, an encoded slash or backslash, a control character, a broken `%` or bytes that are not UTF-8, in any spelling.",
        "Send the plain path; percent-encode what a parameter contains once, as UTF-8.",
    ),
    code(
        "invalid-result",
        500,
        "The plugin's answer is not JSON",
        "The plugin answered with something that the host does not accept.",
        "Report it to the plugin's author. Until then: `patchbay plugin rollback PLUGIN`.",
    ),
    code(
        "invalid-token",
        401,
        "Invalid token",
        "The access or refresh token is unknown, changed, expired or used, its session has ended, or its account is blocked.",
        "Refresh once with the newest refresh token; if that fails, log in again.",
    ),
    code(
        "keys-configured",
        409,
        "The keys of access tokens are configured (people.jwt_secrets, people.jwt_secret), so this host cannot replace them",
        "The keys are set in the configuration. No command replaces them.",
        "1. On all hosts, add the new secret at the end of `people.jwt_secrets`. 2. On all hosts, move it to the front. 3. After 16 minutes, remove the old one (docs/operations/accounts.md).",
    ),
    code(
        "made-by-client",
        404,
        "daily is a job scheduler that a BullMQ client made in reportQueue. BullMQ cannot pause one. To hold all jobs of its queue: patchbay queue pause reportQueue. To remove it: patchbay schedule remove daily --queue reportQueue",
        "The id belongs to a job scheduler or repeatable that a BullMQ client made. Patchbay can show and remove it. Only that client can do the rest. Nothing was changed.",
        "Use the command that the message names. In the API: `GET` or `DELETE /api/admin/job-schedulers/{queue}/{id}`; `details.queues` has the queues.",
    ),
    code(
        "memory-limit",
        500,
        "The plugin needs more than its 64 MiB of memory",
        "The plugin used more memory than its plugin.toml allows.",
        "Raise `limits.memory_mb` in plugin.toml, then build, push and activate it; or ask the author to use less.",
    ),
    code(
        "method-not-allowed",
        405,
        "This path does not serve that method",
        "The path exists, but not for this HTTP method.",
        "docs/openapi.json lists the methods of each path.",
    ),
    code(
        "mixed-fleet",
        409,
        "Not paused: workers of BullMQ 5 use the same queues, and would lose jobs when they resume the queue",
        "`redis.node_bullmq_major = 5` says that some workers still run BullMQ 5. If Patchbay pauses a queue and BullMQ 5 resumes it, jobs are lost.",
        "Pause from a Node.js program with `queue.pause()`, or stop the plugin with `patchbay plugin deactivate PLUGIN`. When no worker runs BullMQ 5 any more, set `redis.node_bullmq_major` to `6`, or to `none`.",
    ),
    code(
        "no-operations",
        409,
        "Plugin email cannot be called. It only runs jobs",
        "The plugin has no operations that can be called directly.",
        "Add a job to its queue instead: `patchbay job add`.",
    ),
    code(
        "no-role",
        403,
        "No group of yours has a role here. Your groups at Example ID (claim groups): staff",
        "Single sign-on works, but no group of this person is in `operators.oidc.roles`. Sessions that were open have ended.",
        "Add the person to a group at the provider. Or give one of the groups a role in `operators.oidc.roles`, and restart the hosts. Then sign in again.",
    ),
    code(
        "no-vault-key",
        409,
        "Secrets cannot be stored: no master key is configured",
        "Secrets are encrypted with a master key, and this host has none.",
        "Set `secrets.key_file` or PATCHBAY_SECRETS_KEY (docs/operations/secrets.md says how to make a key), and restart the host.",
    ),
    code(
        "not-confirmed",
        428,
        "Nothing was done. This removes jobs of the queue, which cannot be undone. To confirm, send the same request with the query parameter confirm=emailQueue",
        "The request destroys something, so it must be confirmed.",
        "If you are sure: `--yes` on the command line; in the API `confirm=NAME` in the query, with the name from the message.",
    ),
    code(
        "not-found",
        404,
        "No plugin is called emial",
        "There is no plugin, job, queue or other thing of this name.",
        "Check the name. The message often has the command that lists the right ones.",
    ),
    code(
        "not-granted",
        409,
        "Plugin email needs permissions that nobody has granted: \"smtp\"",
        "The revision needs permissions that no operator has granted. It was not activated.",
        "`patchbay plugin grants PLUGIN` lists what it needs. If you agree: `patchbay plugin grant PLUGIN \"PERMISSION\"`, or activate with `--grant`, which grants all of them.",
    ),
    code(
        "not-patchbay",
        0,
        "The server at http://127.0.0.1:8080 is not a Patchbay host (HTTP status 200)",
        "Another program answers at that address.",
        "Check --url or PATCHBAY_URL. Without them, a command asks the host of `patchbay dev` in this directory, else http://127.0.0.1:8080. `ss -ltnp` shows which program listens there. To start a host for a test: `patchbay dev`.",
    ),
    code(
        "not-verified",
        403,
        "Email not verified",
        "The password is right, but the user never entered the code of the signup mail. A new code was sent.",
        "The user enters the code from the mail: `POST /api/auth/verify-otp`.",
    ),
    code(
        "provider-failed",
        502,
        "The provider of single sign-on does not answer as it should, so nobody can sign in with it now",
        "The OpenID Connect provider is away, slow, or answers with something that the host does not accept.",
        "`patchbay operator oidc test` and the host's log say why. Operators with a password log in with that: `patchbay login`.",
    ),
    code(
        "quarantined",
        503,
        "Plugin email has been quarantined since 2026-11-24T12:00:00Z: 10 of the last 10 calls crashed",
        "The plugin crashed too often. Its jobs wait, and keep their attempts, until an operator decides.",
        "If there is an earlier revision: `patchbay plugin rollback PLUGIN`. If the plugin was not the cause: `patchbay plugin release PLUGIN`. Else push and activate a corrected revision.",
    ),
    code(
        "rate-limited",
        429,
        "Too many failed logins from 127.0.0.1. Try again in 16 s",
        "Too many requests of this kind in a short time.",
        "Wait as long as the message or the header `Retry-After` says.",
    ),
    code(
        "read-only",
        409,
        "Key belongs to a queue. Use the queue's own operations",
        "Other programs depend on this key of Redis: BullMQ's scripts, or Patchbay itself. It was not removed.",
        "For jobs: `patchbay job remove`, `patchbay queue clean`, `patchbay queue obliterate`. In `patchbay redis list`, you can remove keys whose OWNER is a plugin, or nobody.",
    ),
    code(
        "reauthenticate",
        403,
        "This needs a login with name and password within the last 10 minutes. Log in again, then repeat it",
        "A change of who can sign in needs a login with name and password within the last 10 minutes.",
        "Log in again in the same browser (`POST /api/admin/session`), then send the request again.",
    ),
    code(
        "redis-full",
        507,
        "Redis is nearly full. New jobs are refused",
        "Redis has no memory for more jobs. Jobs that run are still finished.",
        "Remove old jobs with `patchbay queue clean QUEUE completed`, or raise Redis's `maxmemory`.",
    ),
    code(
        "registry",
        0,
        "The registry answered with HTTP status 401",
        "The OCI registry, the server that stores plugin files, refused or did not answer.",
        "401 or 403: `docker login REGISTRY`. 404: check the name. No answer: check the network.",
    ),
    code(
        "rejected",
        422,
        "The plugin uses 3 interfaces that plugin.toml does not ask for: secrets, kv, smtp",
        "The host does not accept the plugin's file. Nothing was stored.",
        "Nothing on the host repairs this. Send the message to the plugin's author.",
    ),
    code(
        "relay-denied",
        500,
        "The plugin tried to pass on an answer of a server that it may not call",
        "The plugin wants to return the answer of a server that it may not call.",
        "`patchbay plugin grants PLUGIN` shows its permissions; `patchbay plugin grant` gives one. Or ask the plugin's author.",
    ),
    code(
        "request-timeout",
        408,
        "The body did not arrive within 30 s",
        "The body of the request came too slowly.",
        "Send it again over a better connection.",
    ),
    code(
        "route-not-found",
        404,
        "Route not found",
        "The host has no such path. The answer also has the path that was asked for, as `path`.",
        "Check the path: docs/openapi.json, which a host serves as `/api/openapi.json`, lists all. If a command says it: the host is of another version than the command.",
    ),
    code(
        "scope-missing",
        403,
        "Access denied. This API key lacks the scope that was asked for. Its scopes: leads:write",
        "The key of a vendor is right, but it may not do this.",
        "`patchbay vendor-key edit KEY --scope A --scope B` replaces all scopes of the key: name every one that it needs.",
    ),
    code(
        "second-factor",
        403,
        "ada: type the code that your authenticator shows now",
        "Single sign-on asks for a second factor: the code of an authenticator, or one that the provider must report.",
        "Type the code on the page, or `POST /api/admin/oidc/code`. If the message names `amr`: set up a second factor at the provider.",
    ),
    code(
        "sign-in-failed",
        400,
        "This answer belongs to no login of this browser: it was used, it is older than 10 minutes, or it was begun elsewhere",
        "The provider's answer is not for this login, or is not genuine. Nobody was signed in.",
        "Sign in again from the start. If it fails again: the host's log says why, and `patchbay operator oidc test` checks the configuration.",
    ),
    code(
        "token-missing",
        401,
        "Authorization token missing",
        "The request needs an account, and has no access token.",
        "Send `Authorization: Bearer TOKEN`, as `POST /api/auth/login` gives it.",
    ),
    code(
        "too-large",
        413,
        "The body is larger than 2 MiB",
        "The body is larger than this operation accepts.",
        "Send a smaller body, or split it into several requests.",
    ),
    code(
        "trapped",
        500,
        "panicked at src/lib.rs:12:5: no phone",
        "The plugin's code crashed. The text comes from the plugin.",
        "Report it to the plugin's author; `patchbay dead-letter list` shows where it crashed. Until then: `patchbay plugin rollback PLUGIN`.",
    ),
    code(
        "unauthorized",
        401,
        "The user name or password is missing or wrong",
        "The login is missing or wrong.",
        "Log in: `patchbay login`. A program sends a token: PATCHBAY_TOKEN. Where the shared login still opens the API: PATCHBAY_USER and PATCHBAY_PASSWORD.",
    ),
    code(
        "unavailable",
        503,
        "Postgres does not answer. Try again",
        "Postgres, Redis or a part of the host cannot be reached now. Nothing was done, unless the message says otherwise.",
        "Try again in a moment. If it stays: check that Postgres and Redis run; `patchbay status` and `/readyz` of the host say what is missing.",
    ),
    code(
        "unknown-queue",
        404,
        "There is no queue emialQueue. See: patchbay queue list",
        "No job, no plugin and no history has a queue of this name.",
        "Check the name. To create the queue, add its first job with `--new-queue`.",
    ),
    code(
        "unreachable",
        0,
        "No host answers at http://127.0.0.1:8080",
        "The command cannot connect to a host.",
        "Check that the host runs and that the address is right (`--url`, PATCHBAY_URL). To start one for trying: `patchbay dev`.",
    ),
    code(
        "untrusted",
        422,
        "The plugin is not signed by a key that this host trusts",
        "This host runs only plugins that are signed with certain keys.",
        "Sign it with a trusted key (`patchbay plugin sign`). Or, if you know the signer, add the signer's key to `plugins.trusted_keys`.",
    ),
    code(
        "upstream",
        502,
        "The payment service answered with HTTP status 500",
        "An outside service that the plugin needs gave a wrong answer or none. The text comes from the plugin.",
        "Check that service. `patchbay breaker list` shows whether calls to it are stopped.",
    ),
    code(
        "usage",
        0,
        "unexpected argument '--forse' found",
        "The command line has a mistake. The exit code is 2.",
        "See `--help` of the command.",
    ),
    code(
        "webhook-rejected",
        401,
        "The request was rejected",
        "A request to a webhook does not pass the check of its manifest, or the plugin says that it is not the vendor's. The sender gets the plugin's status (400, 401, 403, 404, 410 or 422) and no reason.",
        "`patchbay inbox list --state rejected` has the reason. If the vendor's secret has changed, set it (`patchbay secret set`), then `patchbay inbox verify ID --apply`.",
    ),
];

/// The page docs/errors.md.
pub fn page() -> String {
    let mut page = String::from(
        "# Error codes\n\nFind what an error means, and what to do next. The command line prints the code in parentheses after the \
         message. With `--json`, and in the API, it is\nthe field `code` of `{\"success\": false, \"code\": …, \"message\": …, \"details\": …}`. \
         `details`, where there are any, are for programs: for example the SQL to run.\n\nIn scripts, compare the code and not the message, \
         which may change. A plugin can return errors of its own: then code and message are the plugin's, and the code is\nnot in this \
         table. \"–\" in the column HTTP: only the command line has this code.\n\n\
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
