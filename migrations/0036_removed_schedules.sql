-- A removed schedule can be restored for 30 days, with its data.
create table removed_schedules (
    id text primary key,
    schedule jsonb not null,
    removed_at timestamptz not null default now()
);
