-- Several people of one network can sign up with one address, each with a password: which of them counts is decided when a code is typed. Until
-- then one signup does not replace another.
drop index one_time_codes_purpose_email_norm_network_idx;
create index one_time_codes_purpose_email_norm_network_idx on one_time_codes (purpose, email_norm, network) where used_at is null;
