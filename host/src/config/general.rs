//! Keys without a section.

use super::key::{key, section};
use super::kind::{list, text};

section! {
    /// Of the installation as a whole.
    pub struct General {
        /// Shown by the health check
        environment: String = key("environment", text()).default("development").old(&["NODE_ENV"]);
        /// Platform that plugins see for requests without X-Platform, and for jobs of other
        /// producers
        default_platform: String = key("default_platform", text()).default("default");
        /// Platforms that requests may name in X-Platform; others count as the default platform.
        /// Unset: any
        platforms: Vec<String> = key("platforms", list()).or_empty();
    }
}
