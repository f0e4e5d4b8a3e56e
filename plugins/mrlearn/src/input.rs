//! What several routes get: the config that a path names.

use serde::Deserialize;

#[derive(Deserialize)]
pub struct OnPath {
    pub path: Path,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    pub config_id: i64,
}
