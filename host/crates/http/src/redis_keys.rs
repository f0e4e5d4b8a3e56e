//! Routes of Redis's keys, at the addresses of the previous backend.

use patchbay_api::redis_keys::{RedisKeyPage, RedisKeysList, RedisKeysRemove, RemovedRedisKey};
use patchbay_app::redis_keys::RedisKeys;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.add(list).add(remove)
}

async fn list(keys: RedisKeys, _: Caller, ask: Ask<RedisKeysList>) -> Result<RedisKeyPage, Error> {
    keys.list(ask.query).await
}

async fn remove(
    keys: RedisKeys,
    who: Caller,
    ask: Ask<RedisKeysRemove>,
) -> Result<RemovedRedisKey, Error> {
    keys.remove(&who, &ask.path.key, ask.query.encoding).await
}
