-- SPDX-License-Identifier: GPL-3.0-or-later
-- Room for Realtime's own tables. The publication supabase_realtime comes with the image. Runs once, as supabase_admin.
\set owner `printf '%s' "$POSTGRES_USER"`

create schema if not exists _realtime;
alter schema _realtime owner to :"owner";
