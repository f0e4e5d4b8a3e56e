//! Who could change the ledger unseen by Postgres.

use crate::{Store, StoreError};

/// How far Postgres keeps this host's login from changing entries.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Protection {
    /// The host's login.
    pub login: String,
    pub database: String,
    /// Of the tables.
    pub owner: String,
    /// A superuser is stopped by the triggers only, which it can turn off.
    pub is_superuser: bool,
    /// The login has the rights of the owner: it could grant itself what was taken away.
    pub is_owner: bool,
    /// The login may create roles, and this Postgres lets it join others by that (before version
    /// 16).
    pub could_join_owner: bool,
    /// Rights to change entries, batches or expiries that the login has now.
    pub may_change: bool,
    /// The triggers are all there, and always on.
    pub is_guarded: bool,
}

impl Store {
    pub async fn audit_protection(&self) -> Result<Protection, StoreError> {
        let query = sqlx::query_as(
            "select current_user::text as login, current_database()::text as database, pg_get_userbyid(c.relowner)::text as owner, \
             r.rolsuper as is_superuser, pg_has_role(c.relowner, 'member') as is_owner, \
             r.rolcreaterole and current_setting('server_version_num')::int < 160000 \
               and not (select o.rolsuper from pg_roles o where o.oid = c.relowner) as could_join_owner, \
             exists (select from unnest(array['audit_entries', 'audit_batches', 'audit_expiries']) t (name), \
               unnest(array['update', 'delete', 'truncate']) p (privilege) \
               where has_table_privilege('patchbay.' || t.name, p.privilege)) as may_change, \
             (select count(*) = 6 from pg_trigger g where g.tgenabled = 'A' and (g.tgrelid::regclass::text, g.tgname::text) in ( \
               ('audit_entries', 'leaf'), ('audit_entries', 'pending'), ('audit_entries', 'append_only'), \
               ('audit_entries', 'append_only_delete'), ('audit_batches', 'append_only'), ('audit_expiries', 'append_only'))) as is_guarded \
             from pg_class c join pg_roles r on r.rolname = current_user where c.oid = 'patchbay.audit_entries'::regclass",
        );
        Ok(query.fetch_one(&self.pool).await?)
    }
}
