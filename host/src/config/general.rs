//! Keys without a section.

use super::key::{key, section};
use super::kind::text;

section! {
    /// Of the installation as a whole.
    pub struct General {
        /// Shown by the health check
        environment: String = key("environment", text()).default("development").old(&["NODE_ENV"]);
        /// What plugins hear as platform of requests without X-Platform, and of jobs of other
        /// producers
        default_platform: String = key("default_platform", text()).default("default");
    }
}
