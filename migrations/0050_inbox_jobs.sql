-- Requests that were just accepted, until their jobs are in the queue: for milliseconds, mostly. Their row in `inbox` is written once, as
-- enqueued: to write it again would touch each of its indexes. A row here says that it still counts as accepted. What stays here beyond
-- `due_at`, any process takes back to the row, and adds the jobs.
create table inbox_jobs (
    inbox_id uuid primary key,
    due_at timestamptz not null,
    -- Sealed with the key that the row names.
    jobs_sealed bytea not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 5000);
create index on inbox_jobs (due_at);

-- Keyed hashes of the values that the manifest declares searchable; absent where there are none.
alter table inbox add column terms bytea[];
create index inbox_terms on inbox using gin (terms) where terms is not null;

-- How many jobs the processing before had: their ids follow from that.
alter table inbox_replays add column jobs_before int;
