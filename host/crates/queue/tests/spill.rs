//! Room in Redis for requests to webhooks while Postgres is away.
//!
//! Needs a Redis: `make test` sets PATCHBAY_TEST_REDIS_URL.

use patchbay_queue::{Broker, RedisConfig};
use redis::AsyncCommands;

#[tokio::test]
async fn strangers_take_half_of_the_room_and_one_network_a_sixteenth() {
    let url = std::env::var("PATCHBAY_TEST_REDIS_URL")
        .expect("run `make test`, or set PATCHBAY_TEST_REDIS_URL");
    let own = format!("s{}-own", uuid::Uuid::new_v4().simple());
    let client = redis::Client::open(url.as_str()).expect("a URL");
    let mut redis = client
        .get_multiplexed_async_connection()
        .await
        .expect("Redis answers");
    let config = RedisConfig {
        url,
        own_prefix: own.clone(),
        ..RedisConfig::default()
    };
    let broker = Broker::connect(config).await.expect("Redis answers");
    let strangers = format!("{own}:inbox-spill-strangers");
    let spill = async |stranger| broker.spill(b"entry", stranger).await.expect("an answer");
    assert!(spill(Some("a")).await && spill(Some("b")).await && spill(None).await);
    let of_a: u64 = redis.hget(&strangers, "a").await.expect("a number");
    assert!(of_a > 1_000, "a small entry counts as one of many: {of_a}");
    let all: u64 = redis.hget(&strangers, "*").await.expect("a number");
    assert_eq!(all, 2 * of_a);
    // As if the network a had sent much.
    let _: () = redis.hset(&strangers, "a", 16 << 20).await.expect("set");
    assert!(!spill(Some("a")).await, "a sixteenth");
    assert!(spill(Some("b")).await && spill(None).await);
    // As if many had.
    let _: () = redis.hset(&strangers, "*", 128 << 20).await.expect("set");
    assert!(!spill(Some("c")).await, "half");
    assert!(spill(None).await, "whoever proves who it is finds room");
    // Room comes back with the entries; of the last, nothing stays.
    let entries = broker.spilled(None, 100).await.expect("entries");
    assert_eq!(entries.len(), 6);
    broker.remove_spilled(&entries[..1]).await.expect("removed");
    let left: u64 = redis.hget(&strangers, "*").await.expect("a number");
    assert_eq!(left, (128 << 20) - of_a);
    assert!(spill(Some("c")).await);
    let entries = broker.spilled(None, 100).await.expect("entries");
    broker.remove_spilled(&entries).await.expect("removed");
    let keys: Vec<String> = redis
        .keys(format!("{own}:inbox-spill*"))
        .await
        .expect("keys");
    assert_eq!(keys, [""; 0]);
    assert_eq!(broker.spill_size().await.expect("a size"), (0, 0));
}
