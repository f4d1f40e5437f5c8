-- SPDX-License-Identifier: GPL-3.0-or-later
-- The database in which services keep their own tables, away from the user's. Runs once, as supabase_admin, before the
-- files that create schemas in it.
\set owner `printf '%s' "$POSTGRES_USER"`

create database _supabase with owner :"owner";
