-- The noted batches with which a trail was found not to be whole. Later verifications compare with them, too: one that knows of fewer
-- must not take the finding back.
alter table audit_verifications add column anchors jsonb;
