//! Requests that come again with the same `Idempotency-Key`: the plugin is called once, and every
//! repeat gets that answer for a day, from whatever host and revision.
//!
//! Redis holds a hash as the name, and the answer sealed under a key that is derived from the master
//! key, the name and the client's key. Without a master key, it is derived from the other two.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use patchbay_model::capability::Fields;
use patchbay_model::operation::Caller;
use patchbay_queue::{Claimed, Keeping, KeptAnswers, RecordName, Unkept};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::answer::{Reply, ReplyBody};
use super::canonical::canonical;
use super::meters::RouteMeters;
use crate::error::{Error, Kind};
use crate::plugins::{Route, RouteFailure};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// Largest answer that is kept. Of a larger one, only that there was one.
const MAX_KEPT_BYTES: usize = 256 << 10;
/// Beyond the deadline of the call: for an instance, for checking the answer and for keeping it.
const LEASE_BEYOND: Duration = Duration::from_secs(6);
/// Between two looks for the answer of a request that goes on.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_LAST: Duration = Duration::from_millis(250);
const NONCE_BYTES: usize = 12;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Repeats {
    redis: KeptAnswers,
    /// Of each master key, newest first; never empty.
    keys: Vec<Zeroizing<[u8; 32]>>,
    meters: Arc<RouteMeters>,
}

/// A request with a key.
pub(super) enum Begun {
    /// It is to be answered, and the claim settled.
    First(Claim),
    /// It came before, and was answered so.
    Again(Result<Reply, Error>),
}

/// The right to answer for a key.
pub(super) struct Claim {
    redis: KeptAnswers,
    name: String,
    /// By whom what is kept is counted.
    caller: String,
    owner: String,
    sealing: Sealing,
    meters: Arc<RouteMeters>,
}

impl Repeats {
    pub(super) fn new(
        redis: KeptAnswers,
        keys: Vec<Zeroizing<[u8; 32]>>,
        meters: Arc<RouteMeters>,
    ) -> Self {
        let keys = match keys.is_empty() {
            true => vec![Zeroizing::new([0; 32])],
            false => keys,
        };
        Self {
            redis,
            keys,
            meters,
        }
    }

    /// Claims the key of a request. While another request with it goes on, waits for its answer, as
    /// long as the route's own deadline.
    pub(super) async fn begin(
        &self,
        route: &Route,
        caller: &Caller,
        key: &str,
        input: &str,
        headers: &Fields,
    ) -> Result<Begun, Error> {
        let name = name(route, caller, key);
        let sealings: Vec<Sealing> = self
            .keys
            .iter()
            .map(|master| Sealing::new(master, &name, key))
            .collect();
        let canonical = canonical_request(input, headers);
        let prints: Vec<String> = sealings
            .iter()
            .map(|sealing| sealing.fingerprint(&canonical))
            .collect();
        let owner = Uuid::now_v7().simple().to_string();
        let who = counted_as(&self.keys[0], caller);
        let record = RecordName {
            name: &name,
            caller: &who,
        };
        let deadline = Duration::from_millis(route.spec.deadline_ms);
        let (until, mut pause) = (Instant::now() + deadline, LOOK_FIRST);
        loop {
            let lease = deadline + LEASE_BEYOND;
            let claimed = self.redis.claim(record, &owner, &prints, lease, KEPT);
            match claimed.await.map_err(|_| away())? {
                Claimed::Ours => {
                    let sealing = sealings.into_iter().next().ok_or_else(Error::internal)?;
                    return Ok(Begun::First(Claim {
                        redis: self.redis.clone(),
                        meters: Arc::clone(&self.meters),
                        name,
                        caller: who,
                        owner,
                        sealing,
                    }));
                }
                Claimed::Other => return Err(reused()),
                Claimed::Unkept => return Err(not_kept()),
                Claimed::TooMany(wait) => return Err(too_many(wait)),
                Claimed::Answered(sealed) => {
                    let opened = sealings
                        .iter()
                        .find_map(|sealing| Some(sealing.open(&name, &sealed)?.answer()));
                    // The master key was replaced: what the answer was is lost, but it was given.
                    return opened.map(Begun::Again).ok_or_else(not_kept);
                }
                Claimed::Busy if Instant::now() + pause >= until => return Err(in_progress()),
                Claimed::Busy => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 3 / 2).min(LOOK_LAST);
                }
            }
        }
    }
}

impl Claim {
    /// Keeps the answer, if it is final; otherwise the next request with the key runs.
    pub(super) async fn settle(self, answer: &Result<Reply, RouteFailure>) {
        let record = self.record();
        let settled = match Kept::of(answer) {
            Some(kept) => {
                let bytes = kept.bytes();
                let sealed =
                    (bytes.len() <= MAX_KEPT_BYTES).then(|| self.sealing.seal(&self.name, bytes));
                let kept = self
                    .redis
                    .keep(record, &self.owner, sealed.as_deref(), KEPT);
                kept.await.map(|kept| match kept {
                    Keeping::Marked(why) => self.unkept(why),
                    Keeping::Kept | Keeping::NotOurs => {}
                })
            }
            None => self.redis.release(record, &self.owner, true).await,
        };
        if let Err(error) = settled {
            warn!(%error, "the answer to a request with an idempotency key was not kept: a repeat calls the plugin again");
        }
    }

    fn record(&self) -> RecordName<'_> {
        RecordName {
            name: &self.name,
            caller: &self.caller,
        }
    }

    /// The first of each reason is logged, and all are counted: a flood must not fill the log.
    fn unkept(&self, why: Unkept) {
        if self.meters.count_unkept(why.as_str()) == 1 {
            let reason = why.as_str();
            warn!(
                reason,
                "the answer to a request with an idempotency key was not kept: a repeat is answered with answer-not-kept"
            );
        }
    }

    /// Nothing was begun: the next request runs, whatever its input.
    pub(super) async fn give_up(self) {
        let released = self.redis.release(self.record(), &self.owner, false).await;
        if let Err(error) = released {
            warn!(%error, "an idempotency key stays claimed until its lease ends");
        }
    }
}

/// What names a record: never the revision, so that an answer outlives a swap.
fn name(route: &Route, caller: &Caller, key: &str) -> String {
    let mut hash = Sha256::new();
    for part in [
        route.plugin.as_str(),
        route.spec.id(),
        &caller.platform,
        kind(caller),
        caller.user_id.as_deref().unwrap_or_default(),
        key,
    ] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(hash.finalize())
}

/// Who a caller is on all routes and platforms, in what its answers take together. Nobody can guess
/// from it who that is.
fn counted_as(master: &Zeroizing<[u8; 32]>, caller: &Caller) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&**master).expect("HMAC takes any key");
    mac.update(kind(caller).as_bytes());
    mac.update(b" of kept answers ");
    mac.update(caller.user_id.as_deref().unwrap_or_default().as_bytes());
    hex::encode(&mac.finalize().into_bytes()[..16])
}

fn kind(caller: &Caller) -> &'static str {
    match caller.role.as_deref() {
        Some(super::VENDOR) => "vendor",
        _ => "account",
    }
}

/// The keys of one record.
struct Sealing {
    aead: RandomizedNonceKey,
    prints: Zeroizing<[u8; 32]>,
}

impl Sealing {
    fn new(master: &Zeroizing<[u8; 32]>, name: &str, key: &str) -> Self {
        let mut secret = Zeroizing::new(master.to_vec());
        secret.extend_from_slice(name.as_bytes());
        secret.extend_from_slice(key.as_bytes());
        let prk = Salt::new(HKDF_SHA256, b"patchbay idempotency v1").extract(&secret);
        let derive = |prk: &Prk, purpose: &[u8]| {
            let mut out = Zeroizing::new([0; 32]);
            let info = [purpose];
            let derived = prk
                .expand(&info, HKDF_SHA256)
                .and_then(|okm| okm.fill(&mut *out));
            derived.expect("HKDF gives one block of any purpose");
            out
        };
        let seal = derive(&prk, b"seal");
        Self {
            aead: RandomizedNonceKey::new(&AES_256_GCM, &*seal).expect("AES-256 takes 32 bytes"),
            prints: derive(&prk, b"fingerprint"),
        }
    }

    /// A short input cannot be guessed from it.
    fn fingerprint(&self, input: &str) -> String {
        use hmac::{Hmac, KeyInit, Mac};
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(&*self.prints).expect("HMAC takes any key");
        mac.update(input.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    fn seal(&self, name: &str, mut bytes: Vec<u8>) -> Vec<u8> {
        let nonce = self
            .aead
            .seal_in_place_append_tag(Aad::from(name.as_bytes()), &mut bytes)
            .expect("AES-GCM seals values of this size");
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut bytes);
        sealed
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Option<Kept> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut buffer = sealed.to_vec();
        let plain = self
            .aead
            .open_in_place(nonce, Aad::from(name.as_bytes()), &mut buffer)
            .ok()?;
        Kept::read(plain)
    }
}

/// An answer as it is kept: this as a line of JSON, then the content.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct KeptHead {
    /// A declared failure, in the place of an answer.
    failure: Option<KeptFailure>,
    status: u16,
    headers: Fields,
    content: Option<KeptContent>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct KeptFailure {
    /// As in [`FAILURES`].
    kind: String,
    code: String,
    message: String,
    details: Option<Value>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum KeptContent {
    Json,
    Bytes(String),
}

#[derive(Debug, PartialEq)]
struct Kept {
    head: KeptHead,
    content: Vec<u8>,
}

/// Kinds of declared failures.
const FAILURES: [(Kind, &str); 9] = [
    (Kind::Invalid, "invalid"),
    (Kind::Forbidden, "forbidden"),
    (Kind::NotFound, "not-found"),
    (Kind::Conflict, "conflict"),
    (Kind::RateLimited, "rate-limited"),
    (Kind::Upstream, "upstream"),
    (Kind::Unavailable, "unavailable"),
    (Kind::Deadline, "deadline"),
    (Kind::Internal, "internal"),
];

impl Kept {
    /// Nothing of an answer after which another try makes sense.
    fn of(answer: &Result<Reply, RouteFailure>) -> Option<Self> {
        match answer {
            Ok(reply) if !(200..300).contains(&reply.status) => None,
            Ok(reply) => {
                let (content, bytes) = match &reply.body {
                    ReplyBody::Empty => (None, Vec::new()),
                    ReplyBody::Json(text) => (Some(KeptContent::Json), text.clone().into_bytes()),
                    ReplyBody::Bytes(kind, bytes) => {
                        (Some(KeptContent::Bytes(kind.clone())), bytes.clone())
                    }
                    ReplyBody::Relayed(_) => return None,
                };
                Some(Self {
                    head: KeptHead {
                        failure: None,
                        status: reply.status,
                        headers: reply.headers.clone(),
                        content,
                    },
                    content: bytes,
                })
            }
            Err(failure) if !failure.is_final => None,
            Err(RouteFailure { error, .. }) => {
                let (_, kind) = FAILURES.iter().find(|(kind, _)| *kind == error.kind)?;
                Some(Self {
                    head: KeptHead {
                        failure: Some(KeptFailure {
                            kind: (*kind).to_owned(),
                            code: error.code.to_string(),
                            message: error.message.clone(),
                            details: error.details.clone(),
                        }),
                        status: 0,
                        headers: Fields::new(),
                        content: None,
                    },
                    content: Vec::new(),
                })
            }
        }
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(&self.head).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.content);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        Some(Self {
            head: serde_json::from_slice(&bytes[..end]).ok()?,
            content: bytes[end + 1..].to_vec(),
        })
    }

    fn answer(self) -> Result<Reply, Error> {
        let head = self.head;
        if let Some(failure) = head.failure {
            let mut kinds = FAILURES.iter();
            let kind = kinds.find(|(_, name)| *name == failure.kind);
            let kind = kind.map_or(Kind::Internal, |(kind, _)| *kind);
            let error = Error::new(kind, failure.code, failure.message).private();
            return Err(Error {
                details: failure.details,
                is_replayed: true,
                ..error
            });
        }
        let body = match head.content {
            None => ReplyBody::Empty,
            Some(KeptContent::Json) => {
                ReplyBody::Json(String::from_utf8(self.content).map_err(|_| Error::internal())?)
            }
            Some(KeptContent::Bytes(kind)) => ReplyBody::Bytes(kind, self.content),
        };
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body,
            is_replayed: true,
        })
    }
}

/// The input, and the headers that the operation gets: with another tenant in a header it is another
/// request.
fn canonical_request(input: &str, headers: &Fields) -> String {
    let mut text = canonical(input);
    let mut headers: Vec<_> = headers.iter().collect();
    headers.sort();
    for (name, value) in headers {
        text.push('\n');
        text.push_str(name);
        text.push(':');
        text.push_str(&hex::encode(value));
    }
    text
}

fn away() -> Error {
    Error::new(
        Kind::Unavailable,
        "unavailable",
        "Requests with an Idempotency-Key cannot be answered now, because Redis is away. Try again",
    )
}

fn reused() -> Error {
    Error::new(
        Kind::Unprocessable,
        "idempotency-key-reused",
        "This Idempotency-Key was sent with another input before. Make a new key for a new request",
    )
}

fn in_progress() -> Error {
    let message =
        "A request with this Idempotency-Key is still being answered. Send it again in a moment";
    Error::new(Kind::Conflict, "in-progress", message).retry_after(Duration::from_secs(1))
}

fn too_many(wait: Duration) -> Error {
    let message = "Too many new values of Idempotency-Key from this client within 24 hours. Try again later; requests with a key that was sent \
                   before are answered";
    Error::new(Kind::RateLimited, "rate-limited", message).retry_after(wait)
}

fn not_kept() -> Error {
    let message = "A request with this Idempotency-Key was answered before, and its answer was not kept. Do not send it again; \
                   look up what it did";
    Error::new(Kind::Conflict, "answer-not-kept", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn headers_that_the_operation_gets_belong_to_the_request() {
        let with = |value: &str| {
            let headers = vec![("x-tenant".to_owned(), value.as_bytes().to_vec())];
            canonical_request(r#"{"a":1}"#, &headers)
        };
        assert_eq!(with("one"), with("one"));
        assert_ne!(with("one"), with("two"));
        assert_ne!(with("one"), canonical_request(r#"{"a":1}"#, &Fields::new()));
    }

    #[test]
    fn an_answer_is_sealed_under_the_clients_key_and_opens_as_it_was() {
        let master = Zeroizing::new([7; 32]);
        let sealing = Sealing::new(&master, "name", "key");
        let reply = Reply {
            status: 201,
            headers: vec![("x-total".into(), b"5".to_vec())],
            body: ReplyBody::Json(json!({ "phone": "+4912345" }).to_string()),
            is_replayed: false,
        };
        let bytes = Kept::of(&Ok(reply)).expect("final").bytes();
        let sealed = sealing.seal("name", bytes);
        assert!(!sealed.windows(7).any(|part| part == b"4912345"));
        let again = sealing.open("name", &sealed).expect("opens").answer();
        let again = again.expect("a reply");
        assert_eq!((again.status, again.is_replayed), (201, true));
        assert!(matches!(again.body, ReplyBody::Json(text) if text == r#"{"phone":"+4912345"}"#));
        assert!(
            Sealing::new(&master, "name", "other")
                .open("name", &sealed)
                .is_none()
        );
        assert!(sealing.open("another", &sealed).is_none());
        let other = Sealing::new(&Zeroizing::new([8; 32]), "name", "key");
        assert!(other.open("name", &sealed).is_none());
        assert_ne!(other.fingerprint("x"), sealing.fingerprint("x"));
    }

    #[test]
    fn only_what_will_not_change_is_kept() {
        let failure = |is_final| {
            Err(RouteFailure {
                error: Error::new(Kind::Conflict, "conflict", "taken")
                    .with_details(json!({ "a": 1 })),
                is_final,
                is_refused_by_breaker: false,
            })
        };
        assert!(Kept::of(&failure(false)).is_none());
        let kept = Kept::of(&failure(true)).expect("final");
        let kept = Kept::read(&kept.bytes()).expect("readable");
        let error = kept.answer().expect_err("a failure");
        assert_eq!(
            (error.kind, &*error.code, error.is_replayed),
            (Kind::Conflict, "conflict", true)
        );
        assert_eq!(error.details, Some(json!({ "a": 1 })));
        let reply = |status| {
            Ok(Reply {
                status,
                headers: Fields::new(),
                body: ReplyBody::Empty,
                is_replayed: false,
            })
        };
        assert!(Kept::of(&reply(404)).is_none() && Kept::of(&reply(204)).is_some());
    }
}
