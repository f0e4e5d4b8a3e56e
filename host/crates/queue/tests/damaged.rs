//! Batches for queues whose keys another program has written: all or none, whatever stops BullMQ's
//! scripts.
//!
//! Needs a Redis: `make test` sets PATCHBAY_TEST_REDIS_URL.

use patchbay_model::job::NewJob;
use patchbay_model::{JobId, QueueName};
use patchbay_queue::{Broker, QueueError, RedisConfig};
use redis::AsyncCommands;

struct World {
    queues: Broker,
    redis: redis::aio::MultiplexedConnection,
    prefix: String,
    queue: QueueName,
}

impl World {
    async fn new() -> Self {
        let url = std::env::var("PATCHBAY_TEST_REDIS_URL")
            .expect("run `make test`, or set PATCHBAY_TEST_REDIS_URL");
        let prefix = format!("d{}", uuid::Uuid::new_v4().simple());
        let client = redis::Client::open(url.as_str()).expect("a URL");
        let redis = client
            .get_multiplexed_async_connection()
            .await
            .expect("Redis answers");
        let config = RedisConfig {
            url,
            own_prefix: format!("{prefix}-own"),
            prefix: prefix.clone(),
            ..RedisConfig::default()
        };
        let queues = Broker::connect(config).await.expect("Redis answers");
        Self {
            queues,
            redis,
            prefix,
            queue: "q".parse().expect("a name"),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}:q:{name}", self.prefix)
    }

    fn job(&self, id: Option<&str>) -> NewJob {
        let id = id.map(|id| id.parse::<JobId>().expect("an id"));
        NewJob {
            id,
            ..NewJob::new(self.queue.clone(), "n", "{}")
        }
    }

    /// Names of the queue's keys that belong to jobs.
    async fn jobs(&mut self) -> Vec<String> {
        let all: Vec<String> = self.redis.keys(self.key("*")).await.expect("keys");
        let prefix = self.key("");
        let names = all
            .iter()
            .filter_map(|key| key.strip_prefix(&prefix))
            .map(str::to_owned);
        let mut names: Vec<String> = names
            .filter(|name| {
                !["meta", "id", "pc", "events", "marker", "wait"].contains(&name.as_str())
            })
            .collect();
        names.sort();
        names
    }
}

fn damage(error: &QueueError) -> &str {
    match error {
        QueueError::Damaged { what, .. } => what,
        other => panic!("not told as damage: {other}"),
    }
}

#[tokio::test]
async fn a_batch_that_a_script_stops_in_is_taken_back_and_what_was_there_before_stays() {
    let mut world = World::new().await;
    world
        .queues
        .add(vec![world.job(None), world.job(Some("old"))])
        .await
        .expect("added");
    let before = (
        world.jobs().await,
        world
            .redis
            .lrange::<_, Vec<String>>(world.key("wait"), 0, -1)
            .await
            .expect("ids"),
    );
    assert_eq!(before.0, ["1", "old"]);
    // The type is right. The script fails where it compares the value, after it has written the
    // job's hash.
    world
        .redis
        .hset::<_, _, _, ()>(world.key("meta"), "concurrency", "x")
        .await
        .expect("set");
    for batch in [
        vec![world.job(None)],
        vec![world.job(Some("new"))],
        vec![
            world.job(None),
            world.job(Some("new")),
            world.job(Some("old")),
            world.job(None),
        ],
    ] {
        let error = world.queues.add(batch).await.expect_err("refused");
        assert!(damage(&error).starts_with("ERR"), "{error}");
        let waiting: Vec<String> = world
            .redis
            .lrange(world.key("wait"), 0, -1)
            .await
            .expect("ids");
        assert_eq!((world.jobs().await, waiting), before);
    }
    world
        .redis
        .hdel::<_, _, ()>(world.key("meta"), "concurrency")
        .await
        .expect("removed");
    world
        .queues
        .add(vec![world.job(None), world.job(Some("new"))])
        .await
        .expect("added");
}

#[tokio::test]
async fn a_key_of_another_type_is_named_and_nothing_is_written_beside_it() {
    let mut world = World::new().await;
    world
        .redis
        .set::<_, _, ()>(world.key("prioritized"), "x")
        .await
        .expect("set");
    let urgent = NewJob {
        priority: Some(1),
        ..world.job(None)
    };
    for batch in [vec![urgent.clone()], vec![world.job(None), urgent]] {
        let error = world.queues.add(batch).await.expect_err("refused");
        assert!(
            damage(&error).ends_with("prioritized is a string, and BullMQ keeps a zset there"),
            "{error}"
        );
        assert!(!error.to_string().contains("does not answer"), "{error}");
        assert_eq!(world.jobs().await, ["prioritized"]);
        let waiting: usize = world.redis.llen(world.key("wait")).await.expect("a length");
        assert_eq!(waiting, 0);
    }
}
