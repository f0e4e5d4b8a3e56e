//! `[admin]`: who may use /api/admin.

use super::key::{key, section};
use super::kind::text;

section! {
    /// The shared login.
    pub struct Admin {
        /// Name of the shared login of /api/admin, which every operator without a name of their own
        /// uses
        username: Option<String> = key("admin.username", text()).old(&["BULL_BOARD_USERNAME"]);
        /// Its password
        password: Option<String> = key("admin.password", text()).old(&["BULL_BOARD_PASSWORD"]).secret();
    }
}

impl Admin {
    /// Name and password.
    pub fn operator(&self) -> Option<(String, String)> {
        self.username.clone().zip(self.password.clone())
    }
}
