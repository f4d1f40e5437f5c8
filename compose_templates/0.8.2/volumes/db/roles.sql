-- SPDX-License-Identifier: GPL-3.0-or-later
-- Passwords of the roles that services log in with. Runs once, as postgres while it is still a superuser: later, these
-- reserved roles can no longer be altered.
\set password `printf '%s' "$POSTGRES_PASSWORD"`

-- Statements with a password stay out of the server's log, whatever the image logs otherwise.
set log_statement = 'none';
set log_min_error_statement = 'panic';

alter role authenticator password :'password';
alter role pgbouncer password :'password';
alter role supabase_auth_admin password :'password';
alter role supabase_functions_admin password :'password';
alter role supabase_storage_admin password :'password';
