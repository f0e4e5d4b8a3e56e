-- How long an alert lasted that has recovered; only its recovery says so.
alter table alert_events add column lasted_ms bigint;
-- When a removal of this job was undone. `acted_at` stays the time of the removal, so that a timeline shows both. A host of the version
-- before writes the time of the undoing to `acted_at`, and nothing here.
alter table bulk_items add column undone_at timestamptz;
-- The newest job of a schedule: its id is `repeat:SCHEDULE:TIME`. Only rows of schedules are in it, so other attempts cost nothing more.
create index on attempts (queue, (substring(job_id from '^repeat:(.*):[0-9.]+$')), finished_at) where job_id like 'repeat:%';
