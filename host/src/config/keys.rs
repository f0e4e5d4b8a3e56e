//! Every configuration key: its kind, default, environment names and meaning. `patchbay config` prints this table.

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// A whole number within bounds.
    Number(u64, u64),
    /// `address:port`.
    Listen,
    /// One of these.
    Choice(&'static [&'static str]),
    /// Comma-separated in the environment, an array in the file.
    List,
    /// Likewise, of addresses and networks.
    Networks,
    /// Likewise, of `scheme://host[:port]`.
    Origins,
    /// A master key of the vault.
    MasterKey,
    /// From 0.0 to 1.0.
    Ratio,
    /// A time zone.
    Zone,
    /// `name=value`, comma-separated.
    Headers,
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Section and name, as in `patchbay.toml`.
    pub path: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// Absent: unset, and the feature is off or derived.
    pub default: Option<&'static str>,
    /// Names that the old backend used, besides `PATCHBAY_<SECTION>_<KEY>`.
    pub old_names: &'static [&'static str],
    /// Never printed.
    pub secret: bool,
    /// For `patchbay config` and docs/operations/configuration.md.
    pub about: &'static str,
}

impl Key {
    /// `PATCHBAY_<SECTION>_<KEY>`.
    pub fn variable(&self) -> String {
        format!("PATCHBAY_{}", self.path.replace('.', "_").to_ascii_uppercase())
    }
}

const fn key(path: &'static str, kind: Kind, default: Option<&'static str>, about: &'static str) -> Key {
    Key { path, kind, default, old_names: &[], secret: false, about }
}

const fn old(mut key: Key, names: &'static [&'static str]) -> Key {
    key.old_names = names;
    key
}

const fn secret(mut key: Key) -> Key {
    key.secret = true;
    key
}

const DAY_MS: u64 = 24 * 3600 * 1000;

/// All of them.
pub const KEYS: &[Key] = &[
    old(key("environment", Kind::Text, Some("development"), "Shown by the health check"), &["NODE_ENV"]),
    key(
        "default_platform",
        Kind::Text,
        Some("default"),
        "What plugins hear as platform of requests without X-Platform, and of jobs of other producers",
    ),
    key("http.listen", Kind::Listen, Some("127.0.0.1:8080"), "Address and port of HTTP; PORT alone means 0.0.0.0:PORT"),
    key(
        "http.header_timeout_ms",
        Kind::Number(100, 600_000),
        Some("75000"),
        "For a request's head; closes idle connections, too: longer than a load balancer keeps them (60 s is usual)",
    ),
    key("http.body_timeout_ms", Kind::Number(100, 3_600_000), Some("120000"), "For a whole request body"),
    key(
        "http.write_timeout_ms",
        Kind::Number(100, 3_600_000),
        Some("60000"),
        "A client that takes nothing of its answer for that long is disconnected",
    ),
    key(
        "http.max_connections",
        Kind::Number(1, 100_000),
        Some("512"),
        "Open at once, others wait; with more, raise the limit of open files (1024 is usual)",
    ),
    key(
        "http.trusted_proxies",
        Kind::Networks,
        None,
        "Addresses or networks of proxies whose X-Forwarded-For is believed; failed logins count by the client's address",
    ),
    key(
        "http.allowed_origins",
        Kind::Origins,
        None,
        "Origins, such as https://ops.example, whose pages may change things here besides this host's own; for a proxy that changes Host",
    ),
    secret(old(
        key("database.url", Kind::Text, None, "postgres://user:password@host:port/name; or the parts below"),
        &["DATABASE_URL"],
    )),
    old(key("database.host", Kind::Text, None, "Name, address, or the directory of a Unix socket"), &["DB_HOST"]),
    old(key("database.port", Kind::Number(1, 65_535), Some("5432"), "Port"), &["DB_PORT"]),
    old(key("database.username", Kind::Text, Some("postgres"), "Login"), &["DB_USERNAME", "DB_USER"]),
    secret(old(key("database.password", Kind::Text, None, "Password"), &["DB_PASSWORD"])),
    old(key("database.name", Kind::Text, Some("postgres"), "Database"), &["DB_NAME", "DB_DATABASE"]),
    key(
        "database.tls",
        Kind::Choice(&["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]),
        None,
        "As sslmode in database.url, which stands for prefer: TLS if the server offers it; verify-full checks who answers",
    ),
    key(
        "database.ca_file",
        Kind::Text,
        None,
        "PEM file of the authority that signs Postgres's certificate; as sslrootcert",
    ),
    key("database.pool_min", Kind::Number(0, 1_000), Some("5"), "Connections kept open"),
    key("database.pool_max", Kind::Number(1, 1_000), Some("20"), "Connections at most"),
    secret(old(
        key(
            "redis.url",
            Kind::Text,
            None,
            "redis://user:password@host:port/db, rediss:// or unix:///path; or the parts below",
        ),
        &["REDIS_URL"],
    )),
    old(key("redis.host", Kind::Text, None, "Name, address, or a socket's path"), &["REDIS_HOST"]),
    old(key("redis.port", Kind::Number(1, 65_535), Some("6379"), "Port"), &["REDIS_PORT"]),
    old(key("redis.username", Kind::Text, None, "User of Redis's ACL"), &["REDIS_USERNAME", "REDIS_USER"]),
    secret(old(key("redis.password", Kind::Text, None, "Password"), &["REDIS_PASSWORD"])),
    old(key("redis.database", Kind::Number(0, 1_000_000), None, "Number of the database; default: 0"), &["REDIS_DB"]),
    old(
        key(
            "redis.tls",
            Kind::Choice(&["true", "false"]),
            None,
            "Whether Redis is spoken to over TLS; default: as the URL says",
        ),
        &["REDIS_TLS"],
    ),
    key(
        "redis.ca_file",
        Kind::Text,
        None,
        "PEM file of certificates that Redis's may be signed by, instead of the system's",
    ),
    key(
        "redis.cert_file",
        Kind::Text,
        None,
        "PEM file of the certificate that Redis is shown (tls-auth-clients); needs redis.key_file",
    ),
    key("redis.key_file", Kind::Text, None, "PEM file of its key"),
    key(
        "redis.sentinels",
        Kind::List,
        None,
        "Sentinels, host:port each, that are asked for the master; instead of redis.url and redis.host",
    ),
    key("redis.sentinel_master", Kind::Text, None, "The name under which they know it"),
    key("redis.sentinel_username", Kind::Text, None, "User at the Sentinels, which have logins of their own"),
    secret(key("redis.sentinel_password", Kind::Text, None, "Password there")),
    key("redis.prefix", Kind::Text, Some("bull"), "BullMQ's key prefix"),
    key(
        "redis.node_bullmq_major",
        Kind::Choice(&["none", "5", "6"]),
        Some("6"),
        "BullMQ's major version on the Node side; with 5, operations that would lose jobs are refused",
    ),
    key("redis.own_prefix", Kind::Text, Some("patchbay"), "Prefix of Patchbay's own keys"),
    key(
        "mail.host",
        Kind::Text,
        None,
        "Mail server; smtp.gmail.com when only EMAIL_USER is set, as in the old backend",
    ),
    key("mail.port", Kind::Number(1, 65_535), Some("465"), "Port"),
    key(
        "mail.tls",
        Kind::Choice(&["implicit", "starttls", "none"]),
        Some("implicit"),
        "implicit (465), starttls (587) or none",
    ),
    key("mail.hello_name", Kind::Text, None, "What EHLO says: this host's domain; default: its address in brackets"),
    old(key("mail.username", Kind::Text, None, "Login at the mail server"), &["EMAIL_USER"]),
    secret(old(
        key("mail.password", Kind::Text, None, "Password, sent as given (of Gmail's app passwords without the spaces)"),
        &["EMAIL_PASS"],
    )),
    old(
        key(
            "mail.from",
            Kind::Text,
            None,
            "Sender for mail plugins that set none; default: mail.username, where that is an address",
        ),
        &["EMAIL_FROM"],
    ),
    old(
        key(
            "mail.timeout_ms",
            Kind::Number(100, 600_000),
            Some("30000"),
            "For a conversation up to the end of the message; its answer may take as long as the job may run",
        ),
        &["EMAIL_TIMEOUT_MS"],
    ),
    key("mail.max_message_mb", Kind::Number(1, 100), Some("25"), "Largest message"),
    old(key("admin.username", Kind::Text, None, "Operator of /api/admin"), &["BULL_BOARD_USERNAME"]),
    secret(old(key("admin.password", Kind::Text, None, "The operator's password"), &["BULL_BOARD_PASSWORD"])),
    key("runtime.max_calls", Kind::Number(1, 10_000), Some("100"), "Plugin calls at once"),
    key("runtime.threads", Kind::Number(1, 1_024), None, "Threads that plugins run on; default: one per processor"),
    key("runtime.memory_mb", Kind::Number(1, 4_096), Some("64"), "Memory of a call whose manifest names none"),
    key("runtime.max_memory_mb", Kind::Number(1, 4_096), Some("512"), "Most that a manifest may ask for"),
    key("runtime.deadline_ms", Kind::Number(1, DAY_MS), Some("30000"), "Deadline of a call whose manifest names none"),
    key("runtime.max_deadline_ms", Kind::Number(1, DAY_MS), Some("300000"), "Most that a manifest may ask for"),
    key("runtime.max_component_mb", Kind::Number(1, 1_024), Some("64"), "Largest component file"),
    key(
        "runtime.cache_dir",
        Kind::Text,
        None,
        "Compiled plugins; default: $CACHE_DIRECTORY (systemd), else $XDG_CACHE_HOME or ~/.cache, /patchbay",
    ),
    key("runtime.compile_timeout_s", Kind::Number(1, 3_600), Some("120"), "Longest compilation"),
    key("runtime.compile_memory_mb", Kind::Number(256, 65_536), Some("4096"), "Address space of the compiler"),
    key(
        "schedule.default_zone",
        Kind::Zone,
        Some("UTC"),
        "Time zone of cron expressions that name none, such as Europe/Berlin; also of schedulers that Node made: give it the zone of Node's \
         machines. Unset: TZ, if that names a zone",
    ),
    key("work.max_jobs", Kind::Number(1, 10_000), Some("100"), "Jobs at once over all queues"),
    key(
        "work.lock_s",
        Kind::Number(2, 3_600),
        Some("30"),
        "Lock on a running job: a crash recovers in about this time",
    ),
    key(
        "work.renew_s",
        Kind::Number(1, 3_600),
        Some("10"),
        "How often locks are renewed; less than half of work.lock_s",
    ),
    key("work.max_stalls", Kind::Number(1, 1_000), Some("10"), "Crashes under a job before it fails as crashed-host"),
    key("work.drain_limit_s", Kind::Number(1, 3_600), Some("20"), "Longest wait for running jobs after SIGTERM"),
    key(
        "work.stop_grace_s",
        Kind::Number(2, 3_600),
        Some("30"),
        "When the supervisor kills; more than work.drain_limit_s",
    ),
    key(
        "plugins.trusted_keys",
        Kind::List,
        None,
        "Public keys (ed25519:…): only plugins that one of them has signed are accepted and run; none: no signature is required",
    ),
    key(
        "plugins.trusted_keys_file",
        Kind::Text,
        None,
        "File with more of them, one a line or in PEM; read at the start",
    ),
    key(
        "plugins.draft_wit",
        Kind::Choice(&["true", "false"]),
        Some("false"),
        "Whether plugins may be built against the draft of the next WIT version, which changes without notice; not in production",
    ),
    key(
        "plugins.keep_revisions",
        Kind::Number(2, 10_000),
        Some("10"),
        "Revisions of each plugin that are never deleted by themselves: the newest by their last activation",
    ),
    key(
        "plugins.keep_days",
        Kind::Number(1, 3_650),
        Some("30"),
        "Older ones are kept, too, while they were pushed, activated or ran a job within so many days",
    ),
    key(
        "sql.max_connections",
        Kind::Number(1, 1_000),
        Some("10"),
        "Database connections of all plugins together, besides database.pool_max; at most two per plugin",
    ),
    key(
        "quarantine.policy",
        Kind::Choice(&["wait", "previous", "off"]),
        Some("wait"),
        "A plugin that crashes too often waits for an operator, gives way to the revision before it, or goes on",
    ),
    key("quarantine.crashes", Kind::Number(2, 1_000), Some("10"), "So many crashes without a success in between…"),
    key("quarantine.calls", Kind::Number(2, 1_000), Some("20"), "…among so many last calls…"),
    key("quarantine.within_s", Kind::Number(1, 3_600), Some("60"), "…of the last so many seconds…"),
    key("quarantine.jobs", Kind::Number(1, 1_000), Some("3"), "…over so many different jobs are too often"),
    secret(key("alerts.webhook_url", Kind::Text, None, "Alerts are posted there as JSON")),
    secret(key("alerts.slack_url", Kind::Text, None, "An incoming webhook of Slack, or of what takes its shape")),
    key("alerts.mail_to", Kind::List, None, "Alerts are mailed there, through mail.host and from mail.from"),
    secret(key(
        "alerts.ping_url",
        Kind::Text,
        None,
        "Asked every minute while alerts work: a dead-man service that misses it raises its own alarm",
    )),
    key("alerts.every_ms", Kind::Number(50, 600_000), Some("15000"), "Between two evaluations of the rules"),
    key(
        "alerts.repeat_s",
        Kind::Number(1, 30 * 86_400),
        Some("14400"),
        "How often an alert that still fires is told again",
    ),
    key(
        "alerts.runbook_base",
        Kind::Text,
        Some("docs/operations/alerts.md"),
        "Where messages say that runbooks are; the rule's name follows as fragment",
    ),
    key(
        "history.enabled",
        Kind::Choice(&["true", "false"]),
        Some("true"),
        "Whether attempts are recorded; false: jobs run, and nothing is remembered of them beyond what BullMQ keeps",
    ),
    key(
        "history.bodies",
        Kind::Choice(&["true", "false"]),
        Some("true"),
        "Whether data and result of jobs are kept with their last attempt, sealed; needs secrets.key_file",
    ),
    key(
        "history.buffer_mb",
        Kind::Number(1, 65_536),
        Some("64"),
        "While attempts that Postgres does not have yet hold more of Redis's memory than that, data and results are left out",
    ),
    key(
        "history.keep_days",
        Kind::Number(1, 36_500),
        Some("90"),
        "Attempts that completed are forgotten after so many days; per queue: patchbay history retention",
    ),
    key("history.keep_failed_days", Kind::Number(1, 36_500), Some("365"), "Likewise, all other attempts"),
    key(
        "history.mirror",
        Kind::Choice(&["true", "false"]),
        Some("true"),
        "Whether jobs that other workers ended (Node's, for example) are copied to the history, as far as they can be seen",
    ),
    key(
        "history.mirror_every_s",
        Kind::Number(1, 600),
        Some("15"),
        "Between two looks at what other workers have ended",
    ),
    key("egress.allow_addresses", Kind::List, None, "Private addresses or networks that plugins may call nevertheless"),
    key(
        "egress.ca_file",
        Kind::Text,
        None,
        "PEM file of certificates that plugins' outside calls trust besides the system's",
    ),
    key(
        "secrets.key_file",
        Kind::Text,
        None,
        "File with the master key of the vault: 32 random bytes as hexadecimal digits or base64, for its owner only",
    ),
    secret(key("secrets.key", Kind::MasterKey, None, "The same key itself; better in a file")),
    key("secrets.old_key_file", Kind::Text, None, "While the master key is rotated: the one before it"),
    secret(key("secrets.old_key", Kind::MasterKey, None, "The same key itself")),
    key(
        "metrics.require_operator",
        Kind::Choice(&["true", "false"]),
        Some("true"),
        "Whether /metrics asks for the operator's credentials; false only where nobody else reaches the listener",
    ),
    key(
        "metrics.keep_retired_s",
        Kind::Number(0, 86_400),
        Some("300"),
        "How long the series of a retired, idle revision are still shown; longer than two scrapes",
    ),
    old(
        key(
            "telemetry.otlp_endpoint",
            Kind::Text,
            None,
            "Collector that takes traces by OTLP over HTTP, such as http://127.0.0.1:4318; unset: no traces",
        ),
        &["OTEL_EXPORTER_OTLP_ENDPOINT"],
    ),
    secret(old(
        key("telemetry.otlp_headers", Kind::Headers, None, "Sent to it with each batch: name=value,name=value"),
        &["OTEL_EXPORTER_OTLP_HEADERS"],
    )),
    key(
        "telemetry.sample_ratio",
        Kind::Ratio,
        Some("1"),
        "Share of the traces that begin here which are sent; one that begins elsewhere is sent if it is sampled there",
    ),
    key(
        "telemetry.propagate_to",
        Kind::List,
        None,
        "Outside hosts that get `traceparent` with plugins' calls: your own services; nobody else needs to know of your traces",
    ),
    key(
        "log.format",
        Kind::Choice(&["json", "text"]),
        None,
        "json or text; default: text on a terminal, json elsewhere",
    ),
    key("log.filter", Kind::Text, Some("info"), "As in RUST_LOG, for example info,guest=debug"),
];
