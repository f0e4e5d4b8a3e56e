-- A job's timeline shows the bulk operations that it was part of: when each was done to it, found by the job, and by the job that was added.
alter table bulk_items add column acted_at timestamptz;
create index on bulk_items (queue, job_id);
create index on bulk_items (queue, new_id) where new_id is not null;
