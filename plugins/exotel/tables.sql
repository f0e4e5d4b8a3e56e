-- The plugin's tables in an empty database. In the old backend's, compare column by column: docs are in README.md.
create schema if not exists mas_crm;
-- Made by whoever keeps the leads; the plugin reads these columns.
create table if not exists mas_crm.raw_leads (
  id uuid primary key default gen_random_uuid(),
  name text,
  phone text,
  assigned_to uuid,
  assigned_counsellor uuid,
  owning_sales_head_id uuid,
  created_at timestamptz not null default now()
);
create table if not exists mas_crm.lead_call_logs (
  id uuid primary key default gen_random_uuid(),
  lead_id uuid not null,
  call_source text not null default 'exotel',
  request_key text unique,
  called_by text,
  from_number text,
  to_number text,
  caller_id text,
  status text not null,
  vendor_status text,
  call_sid text unique,
  error_code text,
  duration_s int,
  conversation_s int,
  recording_url text,
  answered_by text,
  answered_at timestamptz,
  ended_at timestamptz,
  platform text,
  placed_at timestamptz,
  checked_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index if not exists lead_call_logs_lead on mas_crm.lead_call_logs (lead_id, created_at desc);
create index if not exists lead_call_logs_open on mas_crm.lead_call_logs (placed_at) where status in ('placing', 'unknown', 'queued', 'ringing', 'in-progress');
create table if not exists mas_crm.lead_sms_logs (
  id uuid primary key default gen_random_uuid(),
  lead_id uuid not null,
  request_key text unique,
  sent_by text,
  to_number text not null,
  sender_id text,
  body text not null,
  dlt_template_id text,
  status text not null,
  sms_sid text unique,
  error_code text,
  detailed_code text,
  detailed_status text,
  platform text,
  checked_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index if not exists lead_sms_logs_lead on mas_crm.lead_sms_logs (lead_id, created_at desc);
-- Callbacks whose row is not there. `sid` is the row that the callback's URL names and the vendor's id: `call-…/…`.
create table if not exists mas_crm.exotel_events (
  kind text not null,
  sid text not null,
  event text not null,
  data jsonb not null,
  received_at timestamptz not null default now(),
  primary key (kind, sid, event)
);
