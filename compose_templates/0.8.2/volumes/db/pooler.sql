-- SPDX-License-Identifier: GPL-3.0-or-later
-- Room for the pooler's tenants. Runs once, as supabase_admin.
\set owner `printf '%s' "$POSTGRES_USER"`
\connect _supabase

create schema if not exists _supavisor;
alter schema _supavisor owner to :"owner";

\connect postgres
