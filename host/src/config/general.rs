//! Keys without a section.

use super::key::{key, section};
use super::kind::text;

section! {
    /// Of the installation as a whole.
    pub struct General {
        /// Shown by the health check
        environment: String = key("environment", text()).default("development").old(&["NODE_ENV"]);
        /// Platform that plugins see for requests without X-Platform, and for jobs of other
        /// producers
        default_platform: String = key("default_platform", text()).default("default");
    }
}
