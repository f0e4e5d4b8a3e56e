//! How bodies of requests go to the API.

use patchbay_api::body::{
    AnyDocument, Body as ApiBody, Credentials, ExpectedForm, Json, NoBody, SecretJson,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

/// How a body goes to the API.
pub(crate) trait SendBody: ApiBody {
    /// `None`: there is no body.
    fn bytes(&self) -> Result<Option<Vec<u8>>, serde_json::Error>;
}

impl SendBody for NoBody {
    fn bytes(&self) -> Result<Option<Vec<u8>>, serde_json::Error> {
        Ok(None)
    }
}

impl SendBody for AnyDocument {
    fn bytes(&self) -> Result<Option<Vec<u8>>, serde_json::Error> {
        Ok(Some(self.0.get().as_bytes().to_vec()))
    }
}

impl<T: ToSchema + Serialize + DeserializeOwned + Send + 'static> SendBody for Json<T> {
    fn bytes(&self) -> Result<Option<Vec<u8>>, serde_json::Error> {
        serde_json::to_vec(&self.0).map(Some)
    }
}

impl<T: ToSchema + ExpectedForm + Serialize + DeserializeOwned + Send + 'static> SendBody
    for SecretJson<T>
{
    fn bytes(&self) -> Result<Option<Vec<u8>>, serde_json::Error> {
        serde_json::to_vec(&self.0).map(Some)
    }
}

impl<T: ToSchema + Serialize + DeserializeOwned + Send + 'static> SendBody for Credentials<T> {
    fn bytes(&self) -> Result<Option<Vec<u8>>, serde_json::Error> {
        serde_json::to_vec(&self.0).map(Some)
    }
}
