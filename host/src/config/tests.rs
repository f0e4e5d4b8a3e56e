use patchbay_capability::MailTls;

use super::*;

fn env(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

const NEEDED: [(&str, &str); 2] = [
    ("DATABASE_URL", "postgres://u:p@db/x"),
    ("REDIS_URL", "redis://r/"),
];

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn with(extra: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::load(None, &env(&[&NEEDED, extra].concat()))
}

fn problems<T>(result: Result<T, ConfigError>) -> String {
    result.err().expect("should be refused").to_string()
}

#[test]
fn the_old_backends_names_are_understood() {
    let config = Config::load(
        None,
        &env(&[
            ("DB_HOST", "db.local"),
            ("DB_PORT", "5433"),
            ("DB_USERNAME", "app"),
            ("DB_PASSWORD", "p@ss/word"),
            ("DB_NAME", "lms"),
            ("REDIS_HOST", "redis.local"),
            ("REDIS_PORT", "6380"),
            ("EMAIL_USER", "us@example.com"),
            ("EMAIL_PASS", "abcd efgh"),
            ("BULL_BOARD_USERNAME", "admin"),
            ("BULL_BOARD_PASSWORD", "pw"),
            ("NODE_ENV", "production"),
            ("PORT", "3000"),
        ]),
    )
    .expect("a configuration");
    assert_eq!(
        config.database.store().url,
        "postgres://app:p%40ss%2Fword@db.local:5433/lms"
    );
    assert_eq!(
        (
            config.database.store().min_connections,
            config.database.store().max_connections
        ),
        (5, 20)
    );
    assert_eq!(config.redis.queues().url, "redis://redis.local:6380");
    let mail = config.mail.account().expect("an account");
    assert_eq!(
        (mail.host.as_str(), mail.port, mail.tls),
        ("smtp.gmail.com", 465, MailTls::Implicit)
    );
    assert_eq!(config.mail.sender().as_deref(), Some("us@example.com"));
    assert_eq!(config.admin.operator(), Some(("admin".into(), "pw".into())));
    assert_eq!(*config.general.environment, "production");
    assert_eq!(config.http.listen.to_string(), "0.0.0.0:3000");
}

#[test]
fn everything_wrong_is_reported_at_once_with_its_key() {
    let text = problems(with(&[
        ("PATCHBAY_WORK_LOCKS_S", "30"),
        ("PATCHBAY_HTTP_LISTEN", "everywhere"),
        ("PATCHBAY_RUNTIME_MEMORY_MB", "lots"),
    ]));
    assert!(
        text.contains("PATCHBAY_WORK_LOCKS_S is not a known variable; did you mean work.lock_s?"),
        "{text}"
    );
    assert!(
        text.contains("http.listen (from PATCHBAY_HTTP_LISTEN)")
            && text.contains("runtime.memory_mb"),
        "{text}"
    );
}

#[test]
fn variables_of_the_command_line_are_no_misspelt_keys() {
    let client = [
        "URL",
        "USER",
        "PASSWORD",
        "REGISTRY_USER",
        "REGISTRY_PASSWORD",
    ];
    let names = client.map(|name| format!("PATCHBAY_{name}"));
    with(&names.each_ref().map(|name| (name.as_str(), "value")))
        .expect("a host's shell may have them, too");
}

#[test]
fn values_that_contradict_each_other_are_named() {
    for (extra, expected) in [
        (
            vec![("DB_HOST", "other")],
            "database.url (from DATABASE_URL) and database.host (from DB_HOST)",
        ),
        (
            vec![("PATCHBAY_WORK_RENEW_S", "15")],
            "work.renew_s (15) must be less than half of work.lock_s (30)",
        ),
        (
            vec![("PATCHBAY_WORK_DRAIN_LIMIT_S", "30")],
            "work.drain_limit_s (30) must be less than work.stop_grace_s (30)",
        ),
        (
            vec![
                ("PATCHBAY_SECRETS_KEY_FILE", "/run/key"),
                ("PATCHBAY_SECRETS_KEY", KEY),
            ],
            "secrets.key_file (from PATCHBAY_SECRETS_KEY_FILE) and secrets.key (from PATCHBAY_SECRETS_KEY)",
        ),
        (
            vec![("PATCHBAY_SECRETS_OLD_KEY", KEY)],
            "secrets.old_key is set, but no new key",
        ),
        (
            vec![("PATCHBAY_DATABASE_POOL_MIN", "21")],
            "database.pool_min (21) is more than database.pool_max (20)",
        ),
        (
            vec![("BULL_BOARD_USERNAME", "admin")],
            "admin.username and admin.password belong together",
        ),
        (
            vec![("NODE_ENV", "a"), ("PATCHBAY_ENVIRONMENT", "b")],
            "PATCHBAY_ENVIRONMENT and NODE_ENV have different values",
        ),
    ] {
        let text = problems(with(&extra));
        assert!(text.contains(expected), "{text}");
    }
    let nothing = problems(Config::load(None, &env(&[])));
    assert!(
        nothing.contains("DATABASE_URL or DB_HOST") && nothing.contains("REDIS_URL or REDIS_HOST"),
        "{nothing}"
    );
}

#[test]
fn the_environment_wins_over_the_file_and_unknown_keys_in_it_are_refused() {
    let file = "[redis]\nprefix = \"file\"\nown_prefix = \"mine\"\n[egress]\nallow_addresses = [\"10.0.0.0/8\", \"::1\"]\nca_file = \"ca.pem\"\n";
    let config = Config::load(
        Some(file),
        &env(&[&NEEDED[..], &[("PATCHBAY_REDIS_PREFIX", "env")]].concat()),
    )
    .expect("valid");
    assert_eq!(
        (
            config.redis.queues().prefix.as_str(),
            config.redis.queues().own_prefix.as_str()
        ),
        ("env", "mine")
    );
    assert_eq!(
        config.egress.calls(config.routes.pace()).allow_addresses,
        ["10.0.0.0/8", "::1"]
    );
    assert_eq!(
        config.egress.calls(config.routes.pace()).ca_file.as_deref(),
        Some(std::path::Path::new("ca.pem"))
    );
    let text = problems(Config::load(
        Some("[reddis]\nprefix = \"x\"\n"),
        &env(&NEEDED),
    ));
    assert!(
        text.contains(
            "reddis.prefix (in patchbay.toml) is not a known key; did you mean redis.prefix?"
        ),
        "{text}"
    );
}

#[test]
fn a_value_in_the_file_may_have_the_type_that_it_is_of_and_another_type_is_refused_by_name() {
    let file = |text: &str| Config::load(Some(text), &env(&NEEDED));
    for ratio in ["0.5", "\"0.5\""] {
        let config = file(&format!(
            "[telemetry]\nsample_ratio = {ratio}\notlp_endpoint = \"http://127.0.0.1:4318\"\n"
        ));
        assert_eq!(*config.expect("valid").telemetry.sample_ratio, 0.5);
    }
    for (text, expected) in [
        (
            "[telemetry]\nsample_ratio = nan\n",
            "must be a number from 0 to 1, such as 0.1, not \"NaN\"",
        ),
        (
            "[work]\nlock_s = 1.5\n",
            "must be a whole number from 2 to 3600, not \"1.5\"",
        ),
        (
            "[work]\nlock_s = [30]\n",
            "work.lock_s (in patchbay.toml): must be a single value, not of type array",
        ),
        (
            "[metrics]\nrequire_operator = 1979-05-27\n",
            "must be true or false, not of type datetime",
        ),
        (
            "[egress.allow_addresses]\nfirst = 1\n",
            "must be a list of values, not of type table",
        ),
    ] {
        let problems = problems(file(text));
        assert!(problems.contains(expected), "{text}: {problems}");
    }
}

#[test]
fn secrets_are_found_by_plugin_first_and_never_printed() {
    let config = with(&[
        ("PATCHBAY_SECRET_API_KEY", "hidden-all"),
        ("PATCHBAY_SECRET_MY_PLUGIN_API_KEY", "hidden-own"),
        ("EMAIL_USER", "u"),
        ("EMAIL_PASS", "hidden-mail"),
    ])
    .expect("valid");
    let name = |text: &str| text.parse().expect("a name");
    assert_eq!(
        config
            .plugin_secret(&name("my-plugin"), "API_KEY")
            .as_deref(),
        Some("hidden-own")
    );
    assert_eq!(
        config.plugin_secret(&name("other"), "API_KEY").as_deref(),
        Some("hidden-all")
    );
    assert!(!format!("{config:?}").contains("hidden") && !format!("{config:?}").contains("u:p@db"));
    let broken = problems(Config::load(
        Some("[mail]\npassword = \"hidden\" oops\n"),
        &env(&NEEDED),
    ));
    assert!(
        !broken.contains("hidden") && broken.contains("line 2"),
        "{broken}"
    );
}

#[test]
fn a_malformed_master_key_is_refused_by_name_and_never_shown() {
    let text = problems(with(&[("PATCHBAY_SECRETS_KEY", "hunter2")]));
    assert!(
        text.contains("secrets.key (from PATCHBAY_SECRETS_KEY): must be a key"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
    let config = with(&[("PATCHBAY_SECRETS_KEY", KEY)]).expect("valid");
    assert!(
        !format!("{config:?}").contains(KEY)
            && matches!(config.secrets.master_keys(), [Some(_), None])
    );
}

const TRUSTED: &str = "ed25519:6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=";
const TRUSTED_PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=\n-----END PUBLIC KEY-----\n";

fn with_key_file(content: &str, extra: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("keys");
    std::fs::write(&file, content).expect("written");
    let path = file.to_str().expect("UTF-8");
    with(&[extra, &[("PATCHBAY_PLUGINS_TRUSTED_KEYS_FILE", path)]].concat())
}

#[test]
fn trusted_keys_come_from_a_list_and_from_a_file_and_each_counts_once() {
    assert!(!with(&[]).expect("valid").plugins.trusted().are_required());
    let other = patchbay_model::signature::PrivateKey::generate().public();
    let file = format!("[plugins]\ntrusted_keys = [\"{TRUSTED}\", \"{other}\"]\n");
    let config = Config::load(Some(&file), &env(&NEEDED)).expect("valid");
    assert_eq!(
        config.plugins.trusted().ids(),
        format!("fe812c12f3ab4ce6, {}", other.id())
    );
    let content = format!("# ours\n{other}\n{TRUSTED_PEM}");
    let config =
        with_key_file(&content, &[("PATCHBAY_PLUGINS_TRUSTED_KEYS", TRUSTED)]).expect("valid");
    assert_eq!(
        config.plugins.trusted().ids(),
        format!("fe812c12f3ab4ce6, {}", other.id())
    );
}

#[test]
fn trusted_keys_that_are_none_stop_the_start_and_are_named() {
    let broken = format!("{TRUSTED},ed25519:nonsense");
    for (value, expected) in [
        (
            broken.as_str(),
            "plugins.trusted_keys (from PATCHBAY_PLUGINS_TRUSTED_KEYS), key 2: after ed25519:",
        ),
        (
            " , ",
            "plugins.trusted_keys (from PATCHBAY_PLUGINS_TRUSTED_KEYS) is empty",
        ),
        (
            "ed25519:AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "key 1: this public key is weak",
        ),
    ] {
        let text = problems(with(&[("PATCHBAY_PLUGINS_TRUSTED_KEYS", value)]));
        assert!(text.contains(expected), "{text}");
    }
    let empty = problems(Config::load(
        Some("[plugins]\ntrusted_keys = []\n"),
        &env(&NEEDED),
    ));
    assert!(
        empty.contains("plugins.trusted_keys (from patchbay.toml) is empty"),
        "{empty}"
    );
    for (result, expected) in [
        (
            with(&[("PATCHBAY_PLUGINS_TRUSTED_KEYS_FILE", "no/keys")]),
            "keys: No such file",
        ),
        (
            with_key_file("# later\n", &[]),
            "keys: the file has no public key",
        ),
        (
            with_key_file(&format!("{TRUSTED}\n-----BEGIN PRIVATE KEY-----\n"), &[]),
            "keys: line 2: this is a private key",
        ),
    ] {
        let text = problems(result);
        assert!(
            text.contains("plugins.trusted_keys_file (from") && text.contains(expected),
            "{text}"
        );
    }
}

#[test]
fn addresses_and_the_greeting_of_mail_are_checked_at_start() {
    let wrong = [
        ("EMAIL_FROM", "Acme <no-reply>"),
        ("PATCHBAY_MAIL_HELLO_NAME", "not a name"),
    ];
    let text = problems(with(&wrong));
    assert!(
        text.contains("mail.from: \"Acme <no-reply>\" is not a mail address"),
        "{text}"
    );
    assert!(
        text.contains("mail.hello_name: \"not a name\" is neither a domain"),
        "{text}"
    );
    let two = problems(with(&[("EMAIL_FROM", "a@example.com, b@example.com")]));
    assert!(
        two.contains("has several addresses; only one is allowed"),
        "{two}"
    );
    // A login does not have to be an address; then it is not used as the sender.
    let login = with(&[
        ("PATCHBAY_MAIL_HOST", "mail.example"),
        ("EMAIL_USER", "apikey"),
        ("EMAIL_PASS", " a b "),
    ]);
    let config = login.expect("valid");
    assert_eq!(config.mail.sender(), None);
    assert_eq!(
        config
            .mail
            .account()
            .and_then(|mail| mail.password)
            .as_deref(),
        Some(" a b "),
        "as it is given"
    );
    let to = [
        ("PATCHBAY_MAIL_HOST", "mail.example"),
        ("EMAIL_FROM", "a@m\u{fc}ller.example"),
        (
            "PATCHBAY_ALERTS_MAIL_TO",
            "\"Ops, night\" <o@example.com>, Team: b@example.com;",
        ),
    ];
    assert_eq!(with(&to).expect("valid").alerts.mail_to.len(), 2);
}

#[test]
fn alerts_that_could_not_be_sent_are_refused() {
    let wrong = [
        ("PATCHBAY_ALERTS_SLACK_URL", "ftp://hooks.example/s3cret"),
        ("PATCHBAY_ALERTS_PING_URL", "s3cret"),
        ("PATCHBAY_ALERTS_MAIL_TO", "ops@example.com,nobody"),
    ];
    let text = problems(with(&wrong));
    for expected in [
        "alerts.slack_url is not an http:// or https:// URL",
        "alerts.ping_url is not an http:// or https:// URL",
        "alerts.mail_to: \"ops@example.com,nobody\" is not a mail address",
        "alerts.mail_to is set, but no mail server or no sender",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn redis_has_one_address_whatever_it_is_made_of() {
    let of = |vars: &[(&str, &str)]| {
        let vars = [&NEEDED[..1], vars].concat();
        Config::load(None, &env(&vars)).map(|config| config.redis.queues())
    };
    let url = |vars: &[(&str, &str)]| of(vars).expect("valid").url;
    assert_eq!(
        url(&[("REDIS_URL", "redis://r:1/2"), ("REDIS_PASSWORD", "p@#/")]),
        "redis://:p%40%23%2F@r:1/2"
    );
    assert_eq!(
        url(&[
            ("REDIS_URL", "redis://u@r/"),
            ("REDIS_USERNAME", "u"),
            ("REDIS_DB", "3")
        ]),
        "redis://u@r/3"
    );
    assert_eq!(
        url(&[("REDIS_HOST", "::1"), ("REDIS_TLS", "true")]),
        "rediss://[::1]:6379"
    );
    assert_eq!(
        url(&[("REDIS_HOST", "/run/r.sock"), ("REDIS_PASSWORD", "p&")]),
        "unix:///run/r.sock?pass=p%26"
    );
    let sentinels = [
        ("PATCHBAY_REDIS_SENTINELS", "a:1, b"),
        ("PATCHBAY_REDIS_SENTINEL_MASTER", "m"),
    ];
    let config = of(&[&sentinels[..], &[("REDIS_PASSWORD", "p")]].concat()).expect("valid");
    assert_eq!(config.sentinel.expect("Sentinels").addresses, ["a:1", "b"]);
    assert!(config.url.starts_with("redis://:p@"), "{}", config.url);
    for (vars, words) in [
        (
            &[("REDIS_URL", "redis://u:a@r/"), ("REDIS_PASSWORD", "b")][..],
            "redis.url and redis.password contradict",
        ),
        (
            &[("REDIS_URL", "rediss://r/"), ("REDIS_TLS", "false")],
            "redis.url and redis.tls contradict",
        ),
        (
            &[("REDIS_URL", "redis://r/"), sentinels[0], sentinels[1]],
            "redis.sentinels and redis.url contradict",
        ),
        (
            &sentinels[..1],
            "redis.sentinels and redis.sentinel_master belong together",
        ),
        (
            &[("REDIS_HOST", "r"), ("PATCHBAY_REDIS_CA_FILE", "ca.pem")],
            "TLS is off: set redis.tls",
        ),
        (
            &[("PATCHBAY_REDIS_SENTINELS", "redis://a"), sentinels[1]],
            "not a host or host:port",
        ),
        (
            &[("REDIS_URL", "redis://:secret#@r/")],
            "Percent-encode special characters",
        ),
    ] {
        let text = problems(of(vars));
        assert!(text.contains(words) && !text.contains("secret"), "{text}");
    }
}

#[test]
fn what_kubernetes_sets_for_services_of_our_names_is_no_setting() {
    let links = [
        ("REDIS_PORT", "tcp://10.96.0.10:6379"),
        ("DB_PORT", "tcp://10.96.0.11:5432"),
        ("PATCHBAY_SERVICE_HOST", "10.96.0.12"),
        ("PATCHBAY_SERVICE_PORT", "8080"),
        ("PATCHBAY_SERVICE_PORT_HTTP", "8080"),
        ("PATCHBAY_PORT", "tcp://10.96.0.12:8080"),
        ("PATCHBAY_PORT_8080_TCP", "tcp://10.96.0.12:8080"),
        ("PATCHBAY_PORT_8080_TCP_PROTO", "tcp"),
        ("PATCHBAY_PORT_8080_TCP_PORT", "8080"),
        ("PATCHBAY_PORT_8080_TCP_ADDR", "10.96.0.12"),
        ("PATCHBAY_MAIL_PORT", "tcp://10.96.0.13:25"),
        ("PATCHBAY_MAIL_SERVICE_HOST", "10.96.0.13"),
        ("PATCHBAY_MAIL_PORT_25_UDP_ADDR", "10.96.0.13"),
        ("PORT", "3000"),
    ];
    let hosts = [("DB_HOST", "db"), ("REDIS_HOST", "redis")];
    let config =
        Config::load(None, &env(&[&links[..], &hosts[..]].concat())).expect("a configuration");
    assert_eq!(
        config.database.store().url,
        "postgres://postgres@db:5432/postgres"
    );
    assert_eq!(config.redis.queues().url, "redis://redis:6379");
    assert_eq!(config.http.listen.port(), 3000);
    let text = problems(with(&[
        ("PATCHBAY_PORT_8080", "x"),
        ("REDIS_PORT", "many"),
        ("PATCHBAY_SERVICE", "x"),
    ]));
    for expected in [
        "PATCHBAY_PORT_8080 is not a known",
        "redis.port (from REDIS_PORT)",
        "PATCHBAY_SERVICE is not a known",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn postgres_may_be_behind_a_socket_an_address_with_colons_or_a_private_authority() {
    for (host, expected) in [
        ("::1", "postgres://app@[::1]:5432/lms"),
        ("[fd00::1]", "postgres://app@[fd00::1]:5432/lms"),
        (
            "/var/run/postgresql",
            "postgres://app@%2Fvar%2Frun%2Fpostgresql:5432/lms",
        ),
    ] {
        let parts = [
            ("DB_HOST", host),
            ("DB_USERNAME", "app"),
            ("DB_NAME", "lms"),
            ("REDIS_URL", "redis://r/"),
        ];
        assert_eq!(
            Config::load(None, &env(&parts))
                .expect("valid")
                .database
                .store()
                .url,
            expected
        );
    }
    for (url, expected) in [
        (
            "postgres://app:p+w%40@/lms?host=/run/pg",
            "postgres:///lms?host=/run/pg&user=app&password=p%2Bw%40",
        ),
        ("postgres://app@/lms", "postgres:///lms?user=app"),
        (
            "postgres:///lms?host=/run/pg",
            "postgres:///lms?host=/run/pg",
        ),
        (
            "postgres://app@db/lms?options=a@/b",
            "postgres://app@db/lms?options=a@/b",
        ),
    ] {
        let given = [("DATABASE_URL", url), ("REDIS_URL", "redis://r/")];
        assert_eq!(
            Config::load(None, &env(&given))
                .expect("valid")
                .database
                .store()
                .url,
            expected
        );
    }
    let tls = [
        ("PATCHBAY_DATABASE_TLS", "verify-full"),
        ("PATCHBAY_DATABASE_CA_FILE", "/etc/ca 1.pem"),
    ];
    let url = with(&tls).expect("valid").database.store().url;
    assert_eq!(
        url,
        "postgres://u:p@db/x?sslmode=verify-full&sslrootcert=%2Fetc%2Fca%201.pem"
    );
}

#[test]
fn origins_are_what_browsers_send() {
    let with_origins = |list: &str| with(&[("PATCHBAY_HTTP_ALLOWED_ORIGINS", list)]);
    let config = with_origins("https://ops.example, http://10.0.0.1:8080").expect("valid");
    assert_eq!(
        *config.http.limits().allowed_origins,
        ["https://ops.example", "http://10.0.0.1:8080"]
    );
    for wrong in [
        "ops.example",
        "https://ops.example/",
        "https://ops.example:443",
        "*",
        "null",
        "ftp://ops.example",
    ] {
        assert!(
            problems(with_origins(wrong)).contains("must be a list of origins"),
            "{wrong}"
        );
    }
    let file =
        "[http]\nallowed_origins = [\"https://ops.example\"]\ntrusted_proxies = [\"10.0.0.0/8\"]\n";
    let config = Config::load(Some(file), &env(&NEEDED)).expect("lists are arrays in the file");
    assert_eq!(config.http.limits().trusted_proxies.len(), 1);
}

#[test]
fn pages_for_users_come_from_exact_origins_and_by_https_in_production() {
    let with_origins = |list: &str, environment: &str| {
        with(&[("SOCKET_CORS_ORIGIN", list), ("NODE_ENV", environment)])
    };
    let config = with_origins("https://App.example,http://localhost:3000", "production");
    assert_eq!(
        *config.expect("valid").http.cors_origins,
        ["https://app.example", "http://localhost:3000"]
    );
    for wrong in ["*", "null", "https://app.example/", "https://*.example/x"] {
        let problems = problems(with_origins(wrong, "development"));
        assert!(
            problems.contains("http.cors_origins"),
            "{wrong}: {problems}"
        );
    }
    let unprotected = "http://app.example,http://[::1]:3000,http://10.0.0.1";
    assert!(with_origins(unprotected, "development").is_ok());
    let problems = problems(with_origins(unprotected, "production"));
    assert!(
        problems.contains("production: http://app.example, http://10.0.0.1"),
        "{problems}"
    );
}

#[test]
fn https_needs_a_certificate_and_its_key_and_the_address_of_hosts_has_no_path() {
    let cert = ("PATCHBAY_HTTP_TLS_CERT_FILE", "/etc/cert.pem");
    let problems_of = |variable| problems(with(&[variable]));
    assert!(problems_of(cert).contains("belong together"));
    let url = |url| ("PATCHBAY_HTTP_PUBLIC_URL", url);
    assert!(problems_of(url("https://api.example/v1")).contains("no path"));
    let config = with(&[url("https://api.example:8443")]).expect("valid");
    assert!(config.http.is_https());
    assert!(!with(&[]).expect("valid").http.is_https());
}

#[test]
fn the_zone_of_schedules_is_what_is_configured_then_tz_then_utc() {
    let zone = |extra: &[(&str, &str)]| {
        with(extra)
            .expect("a configuration")
            .schedule
            .default_zone
            .to_string()
    };
    assert_eq!(zone(&[]), "UTC");
    assert_eq!(zone(&[("TZ", ":europe/berlin")]), "Europe/Berlin");
    assert_eq!(
        zone(&[("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")]),
        "UTC",
        "no reason not to start"
    );
    assert_eq!(
        zone(&[
            ("TZ", "Europe/Berlin"),
            ("PATCHBAY_SCHEDULE_DEFAULT_ZONE", "utc+5:30")
        ]),
        "UTC+5:30"
    );
    let file = Config::load(
        Some("[schedule]\ndefault_zone = \"Asia/Tokyo\"\n"),
        &env(&[&NEEDED[..], &[("TZ", "EST")]].concat()),
    );
    assert_eq!(
        file.expect("a configuration")
            .schedule
            .default_zone
            .to_string(),
        "Asia/Tokyo"
    );
    assert!(
        problems(with(&[("PATCHBAY_SCHEDULE_DEFAULT_ZONE", "Mars")]))
            .contains("schedule.default_zone")
    );
}

#[test]
fn the_documentation_has_a_row_for_every_key() {
    let docs = include_str!("../../../docs/operations/configuration.md");
    let (config, _) = Config::read(None, &env(&[]));
    let rows: Vec<String> = config.entries().iter().map(|entry| row(entry)).collect();
    let documented: Vec<&str> = docs
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    assert_eq!(documented, rows);
}

/// A row of the table in docs/operations/configuration.md.
fn row(entry: &ConfigEntry) -> String {
    let code = |text: &str| format!("`{text}`");
    let default = entry.value.as_deref().map(code).unwrap_or_default();
    let others = entry
        .other_variables
        .iter()
        .filter(|name| !["PORT", "TZ"].contains(name));
    let old_names: Vec<String> = others.map(|name| code(name)).collect();
    format!(
        "| {} | {default} | {} | {} |",
        code(entry.key),
        old_names.join(" "),
        entry.about
    )
}
