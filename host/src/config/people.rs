//! `[people]`: accounts of API clients.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use patchbay_app::people::{
    GoogleKeySource, GoogleLogin, HashCost, LEGACY_KID, MasterLogin, PeopleConfig, totp_secret,
};
use patchbay_http::CookiePolicy;
use patchbay_model::QueueName;
use patchbay_model::role::Role;
use zeroize::Zeroizing;

use super::key::{key, section};
use super::kind::{Form, Kind, boolean, items, list, networks, number, scalar, text};

/// Least bytes of a secret that signs tokens: as many as the hash has.
const MIN_SECRET_BYTES: usize = 32;
const DAY: u64 = 86_400;

section! {
    /// Accounts.
    pub struct People {
        /// Serve accounts under /api/auth; needs secrets.key_file
        enabled: bool = key("people.enabled", boolean()).default("false");
        /// Table of the accounts, with its schema; made if it is absent, never altered
        table: String = key("people.table", table()).default("public.users");
        /// Boolean column of that table by which the previous backend blocks accounts
        blocked_column: Option<String> = key("people.blocked_column", text());
        /// Minimum number of characters of a new password
        password_min: usize = key("people.password_min", number(6..=64)).default("8");
        /// Say at a signup that an address has an account, and at a verification that it has none,
        /// as the previous backend did
        reveal_accounts: bool = key("people.reveal_accounts", boolean()).default("false");
        /// The previous backend still compares passwords: new hashes are bcrypt, so that it can
        node_verifies_passwords: bool = key("people.node_verifies_passwords", boolean()).default("false");
        /// Logins also set the cookies token and refreshToken
        cookies: bool = key("people.cookies", boolean()).default("false");
        /// Pages of other sites may send these cookies (SameSite=None); needs people.cookies
        cookies_cross_site: bool = key("people.cookies_cross_site", boolean()).default("false");
        /// Secrets that sign access tokens, as kid:secret; the first signs, all verify. Unset: the
        /// host makes its own
        jwt_secrets: Vec<(String, Zeroizing<String>)> = key("people.jwt_secrets", secrets()).or_empty().secret();
        /// The previous backend's secret for access tokens: its tokens are accepted, too
        jwt_secret: Option<Zeroizing<String>> = key("people.jwt_secret", secret()).old(&["JWT_SECRET"]).secret();
        /// Memory of a password hash (argon2id), in KiB
        hash_memory_kib: u32 = key("people.hash_memory_kib", number(8..=1_048_576)).default("19456");
        /// Passes of a password hash
        hash_passes: u32 = key("people.hash_passes", number(1..=20)).default("2");
        /// Refused logins, and answers about codes and signups, leave at a multiple of this after their
        /// request began, so that their time does not tell who has an account; 0: at once
        answer_step_ms: u64 = key("people.answer_step_ms", number(0..=5_000)).default("250");
        /// Longest life of a login, however often it is refreshed, in days
        session_days: u64 = key("people.session_days", number(1..=365)).default("30");
        /// Queue of the mails about accounts: jobs otp and send
        mail_queue: QueueName = key("people.mail_queue", queue()).default("emailQueue");
        /// Platforms on which only some roles can log in, each as platform:role+role
        platform_roles: Vec<(String, Vec<Role>)> = key("people.platform_roles", platform_roles()).or_empty();
        /// Client ids of Google whose ID tokens are accepted; unset: no login with Google
        google_client_ids: Vec<String> = key("people.google_client_ids", list()).old(&["GOOGLE_CLIENT_ID"]).or_empty();
        /// URL of Google's keys for ID tokens
        google_keys_url: Option<String> = key("people.google_keys_url", https()).secret();
        /// File with those keys instead, as a JSON Web Key Set
        google_keys_file: Option<PathBuf> = key("people.google_keys_file", text());
        /// Password of the emergency login into any account, as an argon2id hash; unset: off
        master_password_hash: Option<Zeroizing<String>> = key("people.master_password_hash", text_secret()).secret();
        /// Secret of its one-time password in base32, of at least 20 bytes
        master_totp_secret: Option<Zeroizing<Vec<u8>>> = key("people.master_totp_secret", totp()).secret();
        /// Networks from which it is possible; unset: any
        master_networks: Vec<IpNet> = key("people.master_networks", networks()).or_empty();
    }
}

fn table() -> Kind<String> {
    let is_name = |name: &str| {
        let mut bytes = name.bytes();
        !name.is_empty()
            && name.len() <= 63
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    scalar("must be schema.table", move |text| {
        let (schema, table) = text.split_once('.')?;
        (is_name(schema) && is_name(table)).then(|| text.to_owned())
    })
}

fn https() -> Kind<String> {
    scalar(
        "must be an https:// URL (http:// only on this machine)",
        |text| {
            let url = super::kind::web_url(text)?;
            let is_local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
            (url.scheme() == "https" || is_local).then(|| text.to_owned())
        },
    )
}

fn platform_roles() -> Kind<Vec<(String, Vec<Role>)>> {
    Kind::new(Form::Array, |given| {
        let read = |item: &str| {
            let (platform, roles) = item.split_once(':')?;
            let roles: Option<Vec<Role>> = roles.split('+').map(Role::parse).collect();
            (!platform.is_empty()).then_some((platform.to_owned(), roles?))
        };
        let read: Option<_> = items(&given.text).map(read).collect();
        read.ok_or_else(|| {
            let names: Vec<&str> = Role::ALL.iter().map(|role| role.as_str()).collect();
            given.problem(&format!(
                "each item must be platform:role+role, with roles of {}",
                names.join(", ")
            ))
        })
    })
}

fn queue() -> Kind<QueueName> {
    scalar("must be the name of a queue", |text| text.parse().ok())
}

fn text_secret() -> Kind<Zeroizing<String>> {
    scalar("must be a text", |text| Some(text.to_owned().into()))
}

fn totp() -> Kind<Zeroizing<Vec<u8>>> {
    scalar("must be at least 20 bytes in base32", totp_secret)
}

fn secret() -> Kind<Zeroizing<String>> {
    let reason = format!("must have at least {MIN_SECRET_BYTES} bytes");
    scalar(reason, |text| {
        (text.len() >= MIN_SECRET_BYTES).then(|| text.to_owned().into())
    })
}

fn secrets() -> Kind<Vec<(String, Zeroizing<String>)>> {
    Kind::new(Form::Array, |given| {
        let mut secrets: Vec<(String, Zeroizing<String>)> = Vec::new();
        for item in items(&given.text) {
            let split = item.split_once(':');
            let usable = split.filter(|(kid, secret)| {
                let mut bytes = kid.bytes();
                (1..=32).contains(&kid.len())
                    && bytes
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
                    && secret.len() >= MIN_SECRET_BYTES
            });
            let Some((kid, secret)) = usable else {
                let reason = format!(
                    "each item must be kid:secret, with a kid of up to 32 letters and digits and a secret of at least {MIN_SECRET_BYTES} bytes"
                );
                return Err(given.problem(&reason));
            };
            let is_known =
                |known: &&(String, Zeroizing<String>)| known.0 == kid || *known.1 == secret;
            if secrets.iter().any(|known| is_known(&known)) {
                return Err(given.problem("a kid or a secret stands there twice"));
            }
            secrets.push((kid.to_owned(), secret.to_owned().into()));
        }
        Ok(secrets)
    })
}

impl People {
    /// Nothing where this host serves no accounts.
    pub fn people(&self) -> Option<PeopleConfig> {
        let mut jwt_secrets = self.jwt_secrets.clone();
        jwt_secrets.extend(
            self.jwt_secret
                .clone()
                .map(|secret| (LEGACY_KID.to_owned(), secret)),
        );
        self.enabled.then(|| PeopleConfig {
            table: self.table.clone(),
            blocked_column: self.blocked_column.clone(),
            password_min: *self.password_min,
            reveal_accounts: *self.reveal_accounts,
            node_verifies_passwords: *self.node_verifies_passwords,
            jwt_secrets,
            hash: self.hash_cost(),
            answer_step: self.answer_step(),
            session: Duration::from_secs(*self.session_days * DAY),
            mail_queue: self.mail_queue.clone(),
            platform_roles: self.platform_roles.clone(),
            google: self.google(),
            master: self
                .master_password_hash
                .clone()
                .zip(self.master_totp_secret.clone())
                .map(|(password_hash, totp_secret)| MasterLogin {
                    password_hash,
                    totp_secret,
                    networks: self.master_networks.clone(),
                }),
        })
    }

    /// Where accounts that plugins propose are made; nothing where this host serves no accounts.
    pub fn proposals(&self) -> Option<(String, Option<String>)> {
        let column = self.blocked_column.clone();
        self.enabled.then(|| (self.table.clone(), column))
    }

    /// When answers about accounts leave.
    pub(super) fn answer_step(&self) -> Duration {
        Duration::from_millis(*self.answer_step_ms)
    }

    /// Cost of every password hash.
    pub(super) fn hash_cost(&self) -> HashCost {
        HashCost {
            memory_kib: *self.hash_memory_kib,
            passes: *self.hash_passes,
        }
    }

    fn google(&self) -> Option<GoogleLogin> {
        let keys = match (&*self.google_keys_file, &*self.google_keys_url) {
            (Some(file), _) => GoogleKeySource::File(file.clone()),
            (None, Some(url)) => GoogleKeySource::Url(url.clone()),
            (None, None) => return None,
        };
        (!self.google_client_ids.is_empty()).then(|| GoogleLogin {
            client_ids: self.google_client_ids.clone(),
            keys,
        })
    }

    pub fn cookies(&self) -> CookiePolicy {
        CookiePolicy {
            is_on: *self.cookies,
            cross_site: *self.cookies_cross_site,
        }
    }
}
