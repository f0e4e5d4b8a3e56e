//! `[sql]`

use super::key::{key, section};
use super::kind::number;

section! {
    /// SQL of plugins.
    pub struct Sql {
        /// Database connections of all plugins together, in addition to database.pool_max; at most
        /// two per plugin
        max_connections: usize = key("sql.max_connections", number(1..=1_000)).default("10");
    }
}
