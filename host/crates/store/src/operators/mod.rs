//! Operators: who they are, their sessions and tokens, and whether the login of the configuration
//! still opens the API.

mod basic;
mod ending;
mod links;
mod rows;
mod sessions;
mod sign_ins;
mod tokens;
mod watch;

pub use basic::{BasicMode, BasicSet};
pub use links::{EnrolLink, Enrolment, LinkPurpose, NewLink};
pub use rows::{NewOperator, OperatorKey, OperatorRow, OperatorSource, OperatorState, TotpSalt};
pub use sessions::{NewOperatorSession, OperatorMethod, OperatorSessionRow, OperatorSessionView};
pub use sign_ins::{IdentityRow, NewSignIn, Provisioned, SignIn, WaitingSignIn};
pub use tokens::{NewOperatorToken, OperatorTokenRow, OperatorTokenView};
pub use watch::{ExpiringRow, NewOwnerRow, SharedLoginRow};

use sqlx::PgConnection;
use sqlx::types::Uuid;

use crate::StoreError;
use crate::identity_changes::notify;

/// The code of the trigger that keeps an active owner.
const LAST_OWNER: &str = "PB001";

/// Tells every process that an operator has changed.
async fn changed(connection: &mut PgConnection, id: Uuid) -> Result<(), StoreError> {
    notify(connection, 'o', &id.to_string()).await
}

/// As any error of Postgres, but says it when the change would leave no active owner.
fn keeps_an_owner(error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code());
    match code.is_some_and(|code| code == LAST_OWNER) {
        true => StoreError::Conflict(
            "This is the last active owner, and nobody else could give rights any more. Make another operator an owner first: \
             patchbay operator role NAME owner"
                .into(),
        ),
        false => error.into(),
    }
}
