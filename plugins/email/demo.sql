-- Rows of the demo: a salesperson, who logs in with the password `demo-password` (a hash of the old backend's kind).
insert into public.users (id, email, password, "fullName", phone, role, "isVerified", "isProfileComplete", stage)
values ('00000000-0000-4000-8000-00000000d000', 'sales@demo.example', '$2b$10$abcdefghijklmnopqrstuOc7xC8j0I3GCAHiRbFRlxqTD4YSVB1Bi',
  'Meera Demo', '+91 98765 43210', 'sales', true, true, 3)
on conflict do nothing;
