-- A revision that crashed again and again takes no calls until somebody decides: `quarantined`. Which revision is the plugin's own still
-- stands in plugins.active.
alter table revisions drop constraint revisions_state_check;
alter table revisions add constraint revisions_state_check
    check (state in ('staged', 'active', 'retired', 'quarantined'));

-- Each quarantine and its end. Append-only but for the end.
create table quarantines (
    id bigint generated always as identity primary key,
    plugin text not null,
    digest text not null,
    reason text not null,
    began_at timestamptz not null default now(),
    began_by text not null,
    ended_at timestamptz,
    ended_by text,
    end_reason text
);
create index on quarantines (plugin, id desc);
create index on quarantines (digest) where ended_at is null;
