//! Keys of Redis, at the addresses of the previous backend: listing, looking, removing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use redis::AsyncCommands;
use serde_json::{Value, json};

use crate::commands::{json_of, patchbay};
use crate::harness::{Host, PASSWORD, USER, World, until};
use crate::redis_server::{RedisServer, SilentProxy};

/// A host on a Redis that nobody else uses. All parts are kept: a server ends when it is dropped.
struct Setting {
    world: World,
    server: RedisServer,
    host: Host,
    redis: redis::aio::MultiplexedConnection,
}

impl Setting {
    async fn new() -> anyhow::Result<Self> {
        let mut world = World::new().await?;
        let server = RedisServer::start_new(world.dir.path()).await?;
        world.redis_url.clone_from(&server.url);
        let host = world.host(&[]).await?;
        let redis = world.redis().await?;
        Ok(Self {
            world,
            server,
            host,
            redis,
        })
    }
}

/// The whole answer to `GET /api/redis/keys`.
async fn ask(host: &Host, query: &[(&str, &str)]) -> anyhow::Result<(u16, Value)> {
    let url = format!("{}/api/redis/keys", host.url);
    host.request(host.http.get(url).query(query)).await
}

async fn page(host: &Host, query: &[(&str, &str)]) -> anyhow::Result<Value> {
    let (status, answer) = ask(host, query).await?;
    ensure!(
        status == 200 && answer["success"] == true,
        "{query:?}: {status} {answer}"
    );
    ensure!(
        answer["count"] == answer["data"].as_array().context("data")?.len(),
        "{answer}"
    );
    Ok(answer)
}

/// The key that an exact pattern means.
async fn key(host: &Host, name: &str) -> anyhow::Result<Value> {
    let mut answer = page(host, &[("pattern", name)]).await?;
    ensure!(answer["count"] == 1, "{name}: {answer}");
    Ok(answer["data"][0].take())
}

/// As clients of the previous backend send it: without a confirmation. `path` is what follows the
/// last slash.
async fn remove(host: &Host, path: &str) -> anyhow::Result<(u16, Value)> {
    let request = host
        .http
        .delete(format!("{}/api/redis/keys/{path}", host.url));
    let response = request.basic_auth(USER, Some(PASSWORD)).send().await?;
    Ok((response.status().as_u16(), response.json().await?))
}

/// All keys, page by page, as often as they come.
async fn all(host: &Host, query: &[(&str, &str)], limit: usize) -> anyhow::Result<Vec<Value>> {
    let (mut keys, mut cursor) = (Vec::new(), String::new());
    loop {
        let mut query = query.to_vec();
        let most = limit.to_string();
        query.push(("limit", &most));
        if !cursor.is_empty() {
            query.push(("cursor", &cursor));
        }
        let mut page = page(host, &query).await?;
        let found = page["data"].as_array_mut().context("data")?;
        // Long names do not fit into a cursor.
        let is_long = |key: &Value| key["key"].as_str().is_some_and(|name| name.len() > 100);
        let most = if found.iter().any(is_long) {
            limit + 20
        } else {
            limit
        };
        ensure!(found.len() <= most, "{} keys of {limit}", found.len());
        keys.append(found);
        match page["nextCursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return Ok(keys),
        }
    }
}

#[tokio::test]
async fn a_stale_kpi_is_found_looked_at_and_removed_so_that_the_next_read_computes_it()
-> anyhow::Result<()> {
    let Setting {
        host,
        mut redis,
        world: _world,
        server: _server,
    } = Setting::new().await?;
    let kpi = r#"{"revenue":1250.50,"computedAt":"2026-11-30T03:00:00Z"}"#;
    let _: () = redis.set_ex("kpi:dashboard", kpi, 900).await?;

    let listed = page(&host, &[]).await?;
    assert_eq!(listed["partial"], false);
    let found = listed["data"].as_array().context("data")?;
    let found = found.iter().find(|key| key["key"] == "kpi:dashboard");
    let found = found.context("the key")?;
    assert_eq!(
        (&found["type"], &found["value"]),
        (&json!("string"), &json!(kpi))
    );
    assert!(
        found["ttlMs"]
            .as_u64()
            .is_some_and(|ms| (890_000..=900_000).contains(&ms)),
        "{found}"
    );
    assert!(
        found["sizeBytes"].as_u64() >= Some(kpi.len() as u64),
        "{found}"
    );
    let flags = ["truncated", "redacted", "readOnly", "owner"].map(|name| found[name].clone());
    assert_eq!(
        flags,
        [json!(false), json!(false), json!(false), Value::Null]
    );

    assert_eq!(
        remove(&host, "kpi:dashboard?reason=stale").await?,
        (200, json!({ "success": true, "deletedCount": 1 }))
    );
    assert!(!redis.exists::<_, bool>("kpi:dashboard").await?);
    let (status, answer) = remove(&host, "kpi:dashboard").await?;
    assert_eq!(
        (status, answer),
        (
            404,
            json!({ "success": false, "code": "not-found", "message": "Key not found" })
        )
    );

    let (_, activity) = host
        .get("/api/admin/activity?action=redis-key.remove")
        .await?;
    let rows = activity["data"].as_array().context("rows")?;
    assert_eq!(
        rows.len(),
        1,
        "what does not exist was not removed: {activity}"
    );
    assert_eq!(
        (
            &rows[0]["target"],
            &rows[0]["details"]["type"],
            &rows[0]["reason"]
        ),
        (&json!("kpi:dashboard"), &json!("string"), &json!("stale"))
    );
    assert!(
        rows[0]["details"]["sizeBytes"].is_u64() && !activity.to_string().contains("1250"),
        "{activity}"
    );
    Ok(())
}

#[tokio::test]
async fn commands_list_show_and_remove_keys() -> anyhow::Result<()> {
    let Setting {
        host,
        mut redis,
        world: _world,
        server: _server,
    } = Setting::new().await?;
    let _: () = redis.set("kpi:a*", "first").await?;
    let _: () = redis.set("kpi:ab", "second").await?;
    let _: () = redis.hset("kpi:h", "n", 1).await?;
    let _: () = redis.set(b"kpi:\xff", "bytes").await?;
    let listed = json_of(
        &host,
        &["--json", "redis", "list", "--pattern", "kpi:*", "--all"],
    )
    .await?;
    assert_eq!(listed.as_array().map(Vec::len), Some(4), "{listed}");
    let hashes = json_of(
        &host,
        &[
            "--json",
            "redis",
            "list",
            "--type",
            "hash",
            "--pattern",
            "kpi:*",
            "--no-values",
        ],
    )
    .await?;
    assert_eq!(
        (&hashes[0]["key"], &hashes[0]["value"]),
        (&json!("kpi:h"), &Value::Null)
    );
    let printed = patchbay(
        &host,
        &["redis", "list", "--pattern", "kpi:*", "--limit", "1"],
    )
    .await?;
    let said = String::from_utf8_lossy(&printed.stderr).into_owned();
    assert!(said.contains("Next page: --cursor "), "{said}");
    let shown = patchbay(&host, &["redis", "show", "kpi:h"]).await?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("type     hash") && shown.contains(r#""n": "1""#),
        "{shown}"
    );

    let refused = patchbay(&host, &["redis", "remove", "kpi:a*"]).await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(
        said.contains("This removes the key") && said.contains("--yes"),
        "{said}"
    );
    let removed = json_of(
        &host,
        &[
            "--json", "redis", "remove", "kpi:a*", "--yes", "--reason", "INC-7",
        ],
    )
    .await?;
    assert_eq!(removed, json!({ "deletedCount": 1 }));
    assert!(
        redis.exists::<_, bool>("kpi:ab").await?,
        "the star is no wildcard"
    );
    json_of(
        &host,
        &["--json", "redis", "remove", "--base64", "a3BpOv8=", "--yes"],
    )
    .await?;
    assert!(!redis.exists::<_, bool>(b"kpi:\xff").await?);
    let absent = patchbay(&host, &["redis", "show", "kpi:a*"]).await?;
    assert_eq!(absent.status.code(), Some(3));
    let (_, activity) = host.get("/api/admin/activity?action=redis-key").await?;
    assert_eq!(activity["data"][1]["reason"], "INC-7", "{activity}");
    Ok(())
}

#[tokio::test]
async fn each_of_five_thousand_keys_is_in_one_page_also_when_two_hosts_answer() -> anyhow::Result<()>
{
    const KEYS: usize = 5_000;
    let Setting {
        world,
        host,
        mut redis,
        server: _server,
    } = Setting::new().await?;
    let mut pipe = redis::pipe();
    for n in 0..KEYS {
        pipe.set(format!("many:{n}"), n).ignore();
    }
    pipe.rpush("needle:1", "x").ignore();
    let _: () = pipe.query_async(&mut redis).await?;
    for (limit, values) in [(200, "false"), (37, "true")] {
        let keys = all(&host, &[("pattern", "many:*"), ("values", values)], limit).await?;
        let names: BTreeSet<&str> = keys.iter().filter_map(|key| key["key"].as_str()).collect();
        assert_eq!((keys.len(), names.len()), (KEYS, KEYS), "{limit}");
        assert!(
            keys.iter()
                .all(|key| key["value"].is_null() == (values == "false"))
        );
    }
    let mut pipe = redis::pipe();
    for n in 0..300 {
        pipe.set(format!("long:{}:{n}", "x".repeat(600)), n)
            .ignore();
    }
    let _: () = pipe.query_async(&mut redis).await?;
    let long = all(&host, &[("pattern", "long:*")], 20).await?;
    let names: BTreeSet<&str> = long.iter().filter_map(|key| key["key"].as_str()).collect();
    assert_eq!((long.len(), names.len()), (300, 300));
    // Few keys match: a page may be empty, and there is an end.
    for query in [
        [("pattern", "needle:*"), ("values", "true")],
        [("type", "list"), ("pattern", "n*")],
    ] {
        let found = all(&host, &query, 50).await?;
        assert_eq!(found.len(), 1, "{query:?}");
        assert_eq!(found[0]["value"], json!(["x"]));
    }
    // A cursor belongs to Redis, not to the host that gave it.
    let other = world.host(&[]).await?;
    let first = page(&host, &[("pattern", "many:*"), ("limit", "200")]).await?;
    let cursor = first["nextCursor"].as_str().context("a cursor")?;
    page(
        &other,
        &[("pattern", "many:*"), ("limit", "200"), ("cursor", cursor)],
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn of_a_large_value_only_its_beginning_leaves_redis() -> anyhow::Result<()> {
    const LARGE: usize = 20 << 20;
    const LONG: Duration = Duration::from_secs(30);
    let Setting {
        server,
        host,
        world: _world,
        ..
    } = Setting::new().await?;
    // Made within Redis, which is quicker.
    let make = redis::Script::new(
        r"
        local large = string.rep('x', tonumber(ARGV[1]))
        redis.call('SET', 'big:string', large)
        redis.call('RPUSH', 'big:list', large)
        redis.call('SADD', 'big:set', large)
        for n = 1, 2000 do
          redis.call('HSET', 'big:hash', 'f' .. n, string.sub(large, 1, 10000))
        end",
    );
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(LONG));
    let client = redis::Client::open(server.url.as_str())?;
    let mut redis = client
        .get_multiplexed_async_connection_with_config(&patient)
        .await?;
    let _: () = make.arg(LARGE).invoke_async(&mut redis).await?;
    let sent = async || -> anyhow::Result<u64> {
        let info: String = server.ask("INFO stats").await?;
        let sent = info
            .lines()
            .find_map(|line| line.strip_prefix("total_net_output_bytes:"));
        Ok(sent.context("a number")?.trim().parse()?)
    };
    let before = sent().await?;
    let began = Instant::now();
    let listed = page(&host, &[("pattern", "big:*")]).await?;
    let (took, sent) = (began.elapsed(), sent().await? - before);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(sent < 1 << 20, "Redis has sent {sent} bytes");
    assert!(
        listed.to_string().len() < 64 << 10,
        "{} bytes",
        listed.to_string().len()
    );
    let keys: BTreeMap<&str, &Value> = listed["data"]
        .as_array()
        .context("data")?
        .iter()
        .filter_map(|key| Some((key["key"].as_str()?, key)))
        .collect();
    assert_eq!(keys.len(), 4, "{listed}");
    for (name, key) in &keys {
        assert_eq!(key["truncated"], true, "{name}");
        assert!(
            key["sizeBytes"]
                .as_u64()
                .is_some_and(|size| size > (LARGE / 2) as u64),
            "{name}"
        );
    }
    assert_eq!(
        keys["big:string"]["value"].as_str().map(str::len),
        Some(4_096)
    );
    assert_eq!(keys["big:string"]["length"], LARGE);
    assert!(keys["big:list"]["value"].is_null() && keys["big:set"]["value"].is_null());
    let hash = keys["big:hash"]["value"].as_object().context("fields")?;
    assert!(
        (1..=50).contains(&hash.len())
            && hash
                .values()
                .all(|value| value.as_str().is_some_and(|text| text.len() == 1_024))
    );
    // When Redis is full, somebody must find and remove what fills it.
    server.ask::<()>("CONFIG SET maxmemory 1mb").await?;
    assert_eq!(page(&host, &[("pattern", "big:*")]).await?["count"], 4);
    assert_eq!(remove(&host, "big:string").await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn every_type_of_value_has_its_form() -> anyhow::Result<()> {
    let Setting {
        host,
        mut redis,
        world: _world,
        server: _server,
    } = Setting::new().await?;
    let mut pipe = redis::pipe();
    pipe.set("t:string", "é").ignore();
    pipe.set("t:empty", "").ignore();
    pipe.set("t:bytes", b"\xff\x00").ignore();
    pipe.rpush("t:list", &["a", "b"]).ignore();
    pipe.sadd("t:set", &["1", "x"]).ignore();
    pipe.zadd_multiple("t:zset", &[(1.5, "a"), (f64::INFINITY, "b")])
        .ignore();
    pipe.hset_multiple("t:hash", &[("city", "Pune"), ("n", "1")])
        .ignore();
    pipe.cmd("XADD")
        .arg("t:stream")
        .arg("1-0")
        .arg("n")
        .arg(1)
        .ignore();
    pipe.cmd("XADD")
        .arg("t:stream")
        .arg("2-0")
        .arg("n")
        .arg(2)
        .ignore();
    pipe.rpush("t:long", (0..100).collect::<Vec<_>>()).ignore();
    let _: () = pipe.query_async(&mut redis).await?;
    for (name, kind, length, value) in [
        ("t:string", "string", 2, json!("é")),
        ("t:empty", "string", 0, json!("")),
        ("t:bytes", "string", 2, json!({ "base64": "/wA=" })),
        ("t:list", "list", 2, json!(["a", "b"])),
        (
            "t:zset",
            "zset",
            2,
            json!([{ "member": "a", "score": 1.5 }, { "member": "b", "score": "inf" }]),
        ),
        ("t:hash", "hash", 2, json!({ "city": "Pune", "n": "1" })),
        (
            "t:stream",
            "stream",
            2,
            json!([{ "id": "2-0", "fields": { "n": "2" } }, { "id": "1-0", "fields": { "n": "1" } }]),
        ),
    ] {
        let found = key(&host, name).await?;
        assert_eq!(
            (&found["type"], &found["length"], &found["value"]),
            (&json!(kind), &json!(length), &value),
            "{name}"
        );
        assert_eq!(
            (&found["ttlMs"], &found["truncated"]),
            (&Value::Null, &json!(false)),
            "{name}: {found}"
        );
    }
    let set = key(&host, "t:set").await?;
    let members: BTreeSet<&str> = set["value"]
        .as_array()
        .context("members")?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(members, BTreeSet::from(["1", "x"]));
    let long = key(&host, "t:long").await?;
    assert_eq!(
        (
            long["value"].as_array().map(Vec::len),
            &long["truncated"],
            &long["length"]
        ),
        (Some(50), &json!(true), &json!(100))
    );
    for kind in ["string", "list", "set", "zset", "hash", "stream"] {
        let found = all(&host, &[("pattern", "t:*"), ("type", kind)], 50).await?;
        assert!(
            !found.is_empty() && found.iter().all(|key| key["type"] == kind),
            "{kind}: {found:?}"
        );
    }
    assert_eq!(
        page(&host, &[("pattern", "t:list"), ("type", "hash")]).await?["count"],
        0
    );
    Ok(())
}

#[tokio::test]
async fn a_key_of_any_name_is_listed_and_removed_and_none_beside_it() -> anyhow::Result<()> {
    let Setting {
        host,
        mut redis,
        world: _world,
        server: _server,
    } = Setting::new().await?;
    // As it stands in the path, and the key.
    let names: [(&str, &[u8]); 15] = [
        ("mykey", b"mykey"),
        ("a/b/c", b"a/b/c"),
        ("a%2Fb", b"a/b"),
        ("%2Fa", b"/a"),
        ("..%2F..%2Fetc", b"../../etc"),
        ("Li4?encoding=base64", b".."),
        ("line%0Abreak", b"line\nbreak"),
        ("nul%00", b"nul\0"),
        ("%F0%9F%98%80", "😀".as_bytes()),
        ("100%25", b"100%"),
        ("a%252Fb", b"a%2Fb"),
        ("*", b"*"),
        ("~pause", b"~pause"),
        ("__79?encoding=base64", b"\xff\xfe\xfd"),
        ("a+b%20c%3F", b"a+b c?"),
    ];
    for (_, name) in names {
        let _: () = redis.set(name, "1").await?;
    }
    let before: usize = redis::cmd("DBSIZE").query_async(&mut redis).await?;
    let listed = all(&host, &[], 50).await?;
    let bytes = listed
        .iter()
        .filter(|key| key["encoding"] == "base64")
        .map(|key| key["key"].clone());
    assert_eq!(bytes.collect::<Vec<_>>(), [json!("//79")]);
    for (path, name) in names {
        let (status, answer) = remove(&host, path).await?;
        assert_eq!(
            (status, answer),
            (200, json!({ "success": true, "deletedCount": 1 })),
            "{path}"
        );
        assert!(!redis.exists::<_, bool>(name).await?, "{path}");
    }
    let after: usize = redis::cmd("DBSIZE").query_async(&mut redis).await?;
    assert!(before - after >= names.len(), "{before}, {after}");
    let (_, activity) = host
        .get("/api/admin/activity?action=redis-key.remove&limit=100")
        .await?;
    assert_eq!(activity["data"].as_array().map(Vec::len), Some(names.len()));
    Ok(())
}

#[tokio::test]
async fn requests_that_cannot_be_used_are_refused_and_remove_nothing() -> anyhow::Result<()> {
    let Setting {
        host,
        mut redis,
        world: _world,
        server: _server,
    } = Setting::new().await?;
    for n in 0..300 {
        let _: () = redis.set(format!("k:{n}"), n).await?;
    }
    let cursor = page(&host, &[("pattern", "k:*")]).await?["nextCursor"].clone();
    let cursor = cursor.as_str().context("a cursor")?;
    let mut forged = cursor.as_bytes().to_vec();
    forged[3] ^= 1;
    let forged = String::from_utf8(forged)?;
    let (stars, long) = ("*".repeat(50), format!("{}*", "a".repeat(200)));
    for query in [
        vec![("pattern", stars.as_str())],
        vec![("pattern", long.as_str())],
        vec![("pattern", "")],
        vec![("pattern", "!"), ("encoding", "base64")],
        vec![("encoding", "hex")],
        vec![("type", "table")],
        vec![("limit", "0")],
        vec![("limit", "201")],
        vec![("limit", "99999999999999999999")],
        vec![("limit", "-1")],
        vec![("values", "maybe")],
        vec![("cursor", "0")],
        vec![("cursor", "")],
        vec![("pattern", "k:*"), ("cursor", forged.as_str())],
        vec![("cursor", cursor)],
        vec![("pattern", "k:?*"), ("cursor", cursor)],
        vec![("pattern", "k:*"), ("type", "string"), ("cursor", cursor)],
        vec![("keys", "*")],
    ] {
        let (status, answer) = ask(&host, &query).await?;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("invalid-input")),
            "{query:?}: {answer}"
        );
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|text| text.len() > 10),
            "{answer}"
        );
    }
    page(&host, &[("pattern", "k:*"), ("cursor", cursor)]).await?;
    let before: usize = redis::cmd("DBSIZE").query_async(&mut redis).await?;
    for (path, expected) in [
        ("*", 404),
        ("k:*", 404),
        ("k:1?confirm=k:2", 400),
        ("k:1?pattern=*", 400),
        ("%FF", 400),
        ("!?encoding=base64", 400),
        ("", 404),
    ] {
        let (status, answer) = remove(&host, path).await?;
        assert_eq!(
            (status, &answer["success"]),
            (expected, &json!(false)),
            "{path}: {answer}"
        );
    }
    let long = "a".repeat(5_000);
    assert_eq!(remove(&host, &long).await?.0, 400);
    let after: usize = redis::cmd("DBSIZE").query_async(&mut redis).await?;
    assert!(after >= before, "nothing was removed");
    assert_eq!(
        remove(&host, "k:1?confirm=k:1").await?.0,
        200,
        "a confirmation does no harm"
    );
    Ok(())
}

#[tokio::test]
async fn keys_of_queues_and_of_the_host_are_read_only_and_hide_what_jobs_hold() -> anyhow::Result<()>
{
    let Setting {
        world,
        host,
        mut redis,
        server: _server,
    } = Setting::new().await?;
    let prefix = &world.prefix;
    let id = host
        .add(
            "mailQueue",
            json!({ "name": "send", "data": { "to": "ada@example.com", "note": "p3rsonal" } }),
        )
        .await?;
    let job = format!("{prefix}:mailQueue:{id}");
    let found = key(&host, &job).await?;
    assert_eq!(
        (
            &found["type"],
            &found["owner"],
            &found["readOnly"],
            &found["redacted"]
        ),
        (
            &json!("hash"),
            &json!("queue:mailQueue"),
            &json!(true),
            &json!(true)
        ),
        "{found}"
    );
    assert_eq!(
        (&found["value"]["name"], &found["value"]["data"]),
        (&json!("send"), &json!("[redacted]"))
    );
    let own = format!("{prefix}-own");
    let _: () = redis.hset(format!("{own}:limit:x"), "n", "v4lue").await?;
    let _: () = redis
        .set(format!("{own}:kv:plugin:email:sent:7"), "yes")
        .await?;
    let _: () = redis.set(format!("{own}:kv:shared:rate:7"), "3").await?;
    let listed = Value::from(all(&host, &[], 200).await?).to_string();
    assert!(
        !listed.contains("p3rsonal") && !listed.contains("ada@") && !listed.contains("v4lue"),
        "{listed}"
    );

    for (key, message) in [
        (
            job.clone(),
            "Key belongs to a queue. Use the queue's own operations",
        ),
        (
            format!("{prefix}:mailQueue:meta"),
            "Key belongs to a queue. Use the queue's own operations",
        ),
        (
            format!("{own}:limit:x"),
            "Key belongs to Patchbay itself and cannot be removed here",
        ),
    ] {
        let (status, answer) = remove(&host, &key).await?;
        assert_eq!(
            (status, &answer["code"], &answer["message"]),
            (409, &json!("read-only"), &json!(message)),
            "{key}"
        );
        assert!(redis.exists::<_, bool>(&key).await?, "{key}");
    }
    assert_eq!(remove(&host, &format!("{prefix}:nobody:1")).await?.0, 404);
    for (key_of_plugins, owner) in [
        ("plugin:email:sent:7", "email"),
        ("shared:rate:7", "shared"),
    ] {
        let name = format!("{own}:kv:{key_of_plugins}");
        let found = key(&host, &name).await?;
        assert_eq!(
            (&found["owner"], &found["readOnly"]),
            (&json!(owner), &json!(false)),
            "{name}"
        );
        assert_eq!(remove(&host, &name).await?.0, 200, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn secrets_in_values_are_hidden_and_stand_nowhere_else() -> anyhow::Result<()> {
    let Setting {
        host,
        mut redis,
        world: _world,
        server: _server,
    } = Setting::new().await?;
    let secret = format!("s3cr3t{}", uuid::Uuid::new_v4().simple());
    let jwt = format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOjQyfQ.{secret}");
    let document = json!({ "revenue": 12, "user": { "password": secret, "email": format!("{secret}@x.example") }, "apiKey": secret });
    let _: () = redis.set("s:json", document.to_string()).await?;
    let _: () = redis
        .set(
            "s:cut",
            format!("{{\"n\":1,\"token\":\"{}", secret.repeat(200)),
        )
        .await?;
    let _: () = redis
        .hset_multiple(
            "s:hash",
            &[("city", "Pune"), ("otp", &secret), ("cookie", &secret)],
        )
        .await?;
    let _: () = redis.set("s:jwt", &jwt).await?;
    let _: () = redis
        .rpush(
            "s:list",
            &[format!("vk_live_{secret}"), format!("pbt_{secret}")],
        )
        .await?;
    let _: () = redis
        .set("s:form", format!("a=1&password={secret}"))
        .await?;
    let _: () = redis.set("otp:42", &secret).await?;
    let listed = Value::from(all(&host, &[], 200).await?);
    assert!(!listed.to_string().contains("s3cr3t"), "{listed}");
    let shown = key(&host, "s:json").await?;
    assert_eq!(shown["redacted"], true);
    assert!(
        shown["value"]
            .as_str()
            .is_some_and(|text| text.contains(r#""revenue":12,"#)),
        "{shown}"
    );
    assert_eq!(
        key(&host, "s:hash").await?["value"],
        json!({ "city": "Pune", "otp": "[redacted]", "cookie": "[redacted]" })
    );
    for path in ["s:json", "s:cut", "s:hash", "s:jwt", "s:list", "otp:42"] {
        assert_eq!(remove(&host, path).await?.0, 200, "{path}");
    }
    let (_, activity) = host.get("/api/admin/activity").await?;
    let log = host.log.lock().expect("no writer panics").clone();
    assert!(!activity.to_string().contains("s3cr3t") && !log.contains("s3cr3t"));
    Ok(())
}

#[tokio::test]
async fn keys_that_expire_during_a_listing_are_left_out_of_it() -> anyhow::Result<()> {
    let Setting {
        host,
        mut redis,
        world: _world,
        server: _server,
    } = Setting::new().await?;
    let mut pipe = redis::pipe();
    for n in 1..=2_000_u64 {
        pipe.cmd("SET")
            .arg(format!("brief:{n}"))
            .arg(n)
            .arg("PX")
            .arg(1 + n % 1_000)
            .ignore();
    }
    pipe.set("brief:stays", 1).ignore();
    let _: () = pipe.query_async(&mut redis).await?;
    let last = until(
        Duration::from_secs(20),
        "only one key is left",
        async || {
            let keys = all(&host, &[("pattern", "brief:*")], 200).await?;
            for key in &keys {
                let expires = key["ttlMs"].as_u64().is_some_and(|ms| ms <= 1_000);
                assert!(expires || key["key"] == "brief:stays", "{key}");
                assert_eq!(key["type"], "string");
            }
            Ok((keys.len() == 1).then_some(keys))
        },
    )
    .await?;
    assert_eq!(
        (&last[0]["key"], &last[0]["ttlMs"]),
        (&json!("brief:stays"), &Value::Null)
    );
    Ok(())
}

#[tokio::test]
async fn while_redis_is_away_or_silent_the_answer_is_503_within_two_seconds() -> anyhow::Result<()>
{
    let mut world = World::new().await?;
    let mut server = RedisServer::start_new(world.dir.path()).await?;
    let proxy = SilentProxy::start(server.address()).await?;
    world.redis_url = format!("redis://{}/", proxy.address);
    let host = world.host(&[]).await?;
    let refused = async |what: &str| -> anyhow::Result<()> {
        let began = Instant::now();
        let (status, answer) = ask(&host, &[]).await?;
        assert_eq!(
            (status, &answer["code"]),
            (503, &json!("unavailable")),
            "{what}: {answer}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{what}: {:?}",
            began.elapsed()
        );
        let began = Instant::now();
        let (status, answer) = remove(&host, "mykey").await?;
        assert_eq!(
            (status, &answer["code"]),
            (503, &json!("unavailable")),
            "{what}: {answer}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{what}: {:?}",
            began.elapsed()
        );
        Ok(())
    };
    proxy.refuse(true);
    proxy.go_silent();
    refused("silent").await?;
    server.stop().await?;
    refused("away").await?;
    server.start().await?;
    proxy.refuse(false);
    until(Duration::from_secs(20), "Redis is back", async || {
        Ok((ask(&host, &[]).await?.0 == 200).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_missing_right_of_rediss_user_is_named_and_a_cluster_is_refused() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let server = RedisServer::start_new(world.dir.path()).await?;
    let user = format!(
        "ACL SETUSER limited on >pw ~{0}:* ~{0}-own:* ~open:* &* +@all",
        world.prefix
    );
    server.ask::<()>(&user).await?;
    server.ask::<()>("SET open:1 yes").await?;
    server.ask::<()>("SET closed:1 no").await?;
    world.redis_url = format!("redis://limited:pw@127.0.0.1:{}/", server.port);
    let host = world.host(&[]).await?;
    let found = key(&host, "closed:1").await?;
    assert_eq!(
        (&found["type"], &found["value"]),
        (&json!("unknown"), &Value::Null)
    );
    assert!(
        found["problem"]
            .as_str()
            .is_some_and(|text| text.contains("~KEY")),
        "{found}"
    );
    assert_eq!(all(&host, &[("pattern", "*:1")], 50).await?.len(), 2);
    let (status, answer) = remove(&host, "closed:1").await?;
    assert_eq!(
        (status, &answer["code"]),
        (503, &json!("unavailable")),
        "{answer}"
    );
    assert!(
        answer["message"]
            .as_str()
            .is_some_and(|text| text.contains("~KEY")),
        "{answer}"
    );
    for (right, asked) in [
        ("scan", "*"),
        ("memory|usage", "open:1"),
        ("getrange", "open:1"),
        ("type", "open:1"),
        ("info", "open:1"),
    ] {
        server
            .ask::<()>(&format!("ACL SETUSER limited -{right}"))
            .await?;
        let (status, answer) = ask(&host, &[("pattern", asked)]).await?;
        let told = answer["message"].as_str().unwrap_or_default();
        let named = right.split('|').next().unwrap_or_default();
        assert!(
            status == 503 && told.contains("lacks a right") && told.contains(named),
            "{right}: {status} {answer}"
        );
        server
            .ask::<()>(&format!("ACL SETUSER limited +{right}"))
            .await?;
    }
    server.ask::<()>("ACL SETUSER limited -unlink").await?;
    let (status, answer) = remove(&host, "open:1").await?;
    let told = answer["message"].as_str().unwrap_or_default();
    assert!(status == 503 && told.contains("unlink"), "{answer}");
    host.stop().await?;

    // By default this port is 10,000 above Redis's, where there may be none.
    let bus = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port()
        .to_string();
    let args = ["--cluster-enabled", "yes", "--cluster-port", bus.as_str()];
    let cluster = RedisServer::start_with(world.dir.path(), "cluster", &args).await?;
    cluster.ask::<()>("CLUSTER ADDSLOTSRANGE 0 16383").await?;
    world.redis_url.clone_from(&cluster.url);
    let host = world.host(&[]).await?;
    let told = until(
        Duration::from_secs(20),
        "the kind of server is known",
        async || {
            let (status, answer) = ask(&host, &[]).await?;
            Ok((status == 503).then_some(answer))
        },
    )
    .await?;
    assert!(
        told["message"]
            .as_str()
            .is_some_and(|text| text.contains("is a cluster")),
        "{told}"
    );
    Ok(())
}
