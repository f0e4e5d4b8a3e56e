-- Audit trails that show tampering (docs/decisions/034): every entry has a leaf, a hash of all that it says; a sealer puts entries into
-- batches, each chained to the one before; nothing of it can be changed by the host's own login.

-- Keys that the host uses itself, sealed by the vault's master key.
create table sealed_keys (
    -- What it is for: audit, …
    purpose text not null,
    kid text not null,
    nonce bytea not null,
    sealed bytea not null,
    -- Id of the master key.
    key_id text not null,
    -- From then on it signs, until a younger one does.
    signs_from timestamptz not null default now(),
    -- Absent: for ever.
    verifies_until timestamptz,
    created_at timestamptz not null default now(),
    primary key (purpose, kid)
);

alter table audit_entries
    -- Absent in entries of the host.
    alter column plugin drop not null,
    alter column revision drop not null,
    -- user, operator, vendor, plugin, host or anonymous. Absent in entries from before this migration.
    add column actor_kind text,
    add column actor_id text,
    add column actor_name text,
    add column action text,
    -- What it was done to.
    add column entity text,
    add column address inet,
    add column platform text,
    add column origin text not null default 'live' check (origin in ('live', 'import')),
    -- SHA-256 of all other columns: see audit_leaf.
    add column leaf bytea check (octet_length(leaf) = 32);

-- A length and the bytes, so that no two rows give the same text; -1 where there is nothing.
create function audit_field(value text) returns bytea language sql stable parallel safe
    return case when value is null then int4send(-1) else int4send(octet_length(value)) || convert_to(value, 'UTF8') end;

-- host/crates/model/src/audit_chain.rs computes the same. Changing either makes every existing entry look changed.
create function audit_leaf(e audit_entries) returns bytea language sql stable parallel safe
    return sha256(convert_to('patchbay-audit-v1', 'UTF8')
        || audit_field((e).id::text) || audit_field((e).trail) || audit_field((e).entry_key) || audit_field((e).idempotency_key)
        || audit_field((e).plugin) || audit_field((e).revision) || audit_field((e).queue) || audit_field((e).job_id)
        || audit_field((e).correlation_id) || audit_field(((extract(epoch from (e).at) * 1000000)::bigint)::text)
        || audit_field((e).entry::text) || audit_field((e).actor_kind) || audit_field((e).actor_id) || audit_field((e).actor_name)
        || audit_field((e).action) || audit_field((e).entity) || audit_field((e).address::text) || audit_field((e).platform)
        || audit_field((e).origin));

-- Entries that are in no batch yet. A row without its entry shows that the entry was deleted before it was sealed.
create table audit_pending (
    id bigint primary key,
    trail text not null,
    at timestamptz not null default now()
);
create index on audit_pending (trail, id);

create table audit_batches (
    trail text not null,
    -- Counts up when an owner accepts that a restored database lacks entries.
    epoch int not null,
    n bigint not null check (n > 0),
    -- Of its entries, in their order.
    ids bigint[] not null,
    count int not null check (count > 0 and count = cardinality(ids)),
    -- Over the leaves, in their order.
    root bytea not null check (octet_length(root) = 32),
    -- Over this batch and the chain of the batch before.
    chain bytea not null check (octet_length(chain) = 32),
    -- Under the key kid of sealed_keys; absent while no master key is configured.
    mac bytea check (octet_length(mac) = 32),
    kid text,
    sealed_at timestamptz not null default now(),
    primary key (trail, epoch, n),
    check ((mac is null) = (kid is null))
);

-- What may be deleted, and by whose decision. Batches stay.
create table audit_expiries (
    id bigint generated always as identity primary key,
    trail text not null,
    -- Entries up to this id …
    up_to bigint not null,
    -- … that are older than this.
    before timestamptz not null,
    count bigint not null,
    by text not null,
    reason text,
    at timestamptz not null default now()
);
create index on audit_expiries (trail);

-- Trails whose entries are not kept for ever.
create table audit_retention (
    trail text primary key,
    keep_days int not null check (keep_days >= 90),
    changed_at timestamptz not null default now(),
    changed_by text not null
);

-- The last verification of each trail.
create table audit_verifications (
    trail text primary key,
    at timestamptz not null default now(),
    -- whole, broken or shorter
    result text not null check (result in ('whole', 'broken', 'shorter')),
    problem text,
    entries bigint not null,
    batches bigint not null
);

-- The guard is renewed below.
drop trigger append_only on audit_entries;
drop function refuse_change_of_audit_entries();

update audit_entries e set leaf = audit_leaf(e);
alter table audit_entries alter column leaf set not null;
insert into audit_pending (id, trail) select id, trail from audit_entries;

create function set_audit_leaf() returns trigger language plpgsql as
$$ begin new.leaf := patchbay.audit_leaf(new); return new; end $$;
create trigger leaf before insert on audit_entries for each row execute function set_audit_leaf();

-- After the insert: `on conflict do nothing` runs triggers before the insert also for rows that it then leaves out.
create function note_pending_audit_entry() returns trigger language plpgsql as
$$ begin insert into patchbay.audit_pending (id, trail) values (new.id, new.trail); return null; end $$;
create trigger pending after insert on audit_entries for each row execute function note_pending_audit_entry();

create function refuse_change_of_audit() returns trigger language plpgsql as
$$ begin raise exception '% is append-only', tg_table_name using hint = 'See docs/operations/audit.md'; end $$;

create function refuse_delete_of_audit_entry() returns trigger language plpgsql as
$$ begin
    if exists (select from patchbay.audit_expiries x where x.trail = old.trail and old.id <= x.up_to and old.at < x.before) then
        return old;
    end if;
    raise exception 'audit_entries is append-only: no expiry covers entry % of trail %', old.id, old.trail
        using hint = 'See docs/operations/audit.md';
end $$;

create trigger append_only before update or truncate on audit_entries for each statement execute function refuse_change_of_audit();
create trigger append_only_delete before delete on audit_entries for each row execute function refuse_delete_of_audit_entry();
create trigger append_only before update or delete or truncate on audit_batches for each statement execute function refuse_change_of_audit();
create trigger append_only before update or delete or truncate on audit_expiries for each statement execute function refuse_change_of_audit();

-- Also under session_replication_role = replica.
alter table audit_entries enable always trigger leaf, enable always trigger pending, enable always trigger append_only,
    enable always trigger append_only_delete;
alter table audit_batches enable always trigger append_only;
alter table audit_expiries enable always trigger append_only;

-- The owner's own rights: a change fails before any trigger. It could grant them to itself again; `patchbay audit harden` says how to
-- prevent that.
do $$
declare one record;
begin
    for one in select c.oid::regclass as relation, pg_get_userbyid(c.relowner) as owner from pg_class c
        where c.oid in ('audit_entries'::regclass, 'audit_batches'::regclass, 'audit_expiries'::regclass)
    loop
        execute format('revoke update, delete, truncate on %s from %I, public', one.relation, one.owner);
        execute format('revoke update, delete, truncate on %s from current_user', one.relation);
    end loop;
end $$;

create index on audit_entries (trail, actor_id, id desc) where actor_id is not null;
create index on audit_entries (trail, entity, id desc) where entity is not null;
