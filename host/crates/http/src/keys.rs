//! Routes of the keys that the host uses itself.

use patchbay_api::keys::{HostKey, KeysList, KeysReplace, KeysRotate};
use patchbay_app::people::Keys;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.add(list).add(rotate).add(replace)
}

async fn list(keys: Keys, _: Caller, _: Ask<KeysList>) -> Result<Vec<HostKey>, Error> {
    keys.list().await
}

async fn rotate(keys: Keys, who: Caller, _: Ask<KeysRotate>) -> Result<HostKey, Error> {
    keys.rotate(&who).await
}

async fn replace(keys: Keys, who: Caller, _: Ask<KeysReplace>) -> Result<HostKey, Error> {
    keys.replace(&who).await
}
