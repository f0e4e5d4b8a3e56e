//! `[admin]`: who may use /api/admin.

use super::key::{key, section};
use super::kind::text;

section! {
    /// The operator.
    pub struct Admin {
        /// Operator of /api/admin
        username: Option<String> = key("admin.username", text()).old(&["BULL_BOARD_USERNAME"]);
        /// The operator's password
        password: Option<String> = key("admin.password", text()).old(&["BULL_BOARD_PASSWORD"]).secret();
    }
}

impl Admin {
    /// Name and password.
    pub fn operator(&self) -> Option<(String, String)> {
        self.username.clone().zip(self.password.clone())
    }
}
