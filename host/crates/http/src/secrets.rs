//! Routes of secrets of plugins.

use patchbay_api::body::SecretJson;
use patchbay_api::secrets::{
    Rekeyed, Secret, SecretsList, SecretsRekey, SecretsRemove, SecretsRotate, SecretsSet,
};
use patchbay_app::secrets::Secrets;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.add(list).add(set).add(rotate).add(remove).add(rekey)
}

async fn list(secrets: Secrets, _: Caller, ask: Ask<SecretsList>) -> Result<Vec<Secret>, Error> {
    secrets.list(&ask.path.name).await
}

async fn set(secrets: Secrets, who: Caller, ask: Ask<SecretsSet>) -> Result<Secret, Error> {
    let SecretJson(new) = ask.body;
    secrets
        .set(&who, &ask.path.name, &ask.path.secret, new)
        .await
}

async fn rotate(secrets: Secrets, who: Caller, ask: Ask<SecretsRotate>) -> Result<Secret, Error> {
    let SecretJson(new) = ask.body;
    secrets
        .rotate(&who, &ask.path.name, &ask.path.secret, new)
        .await
}

async fn remove(secrets: Secrets, who: Caller, ask: Ask<SecretsRemove>) -> Result<(), Error> {
    secrets.remove(&who, &ask.path.name, &ask.path.secret).await
}

async fn rekey(secrets: Secrets, who: Caller, _: Ask<SecretsRekey>) -> Result<Rekeyed, Error> {
    secrets.rekey(&who).await
}
