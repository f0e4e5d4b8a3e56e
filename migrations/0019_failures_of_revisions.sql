-- What failed of a revision, newest first: without it that is read from all failures, or from all that the revision ran.
create index on attempts (left(revision, 8), finished_at) where outcome <> 'completed';
