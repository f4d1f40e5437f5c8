-- SPDX-License-Identifier: GPL-3.0-or-later
-- Room for Analytics, which may be switched on later. Runs once, as supabase_admin.
\set owner `printf '%s' "$POSTGRES_USER"`
\connect _supabase

create schema if not exists _analytics;
alter schema _analytics owner to :"owner";

\connect postgres
