-- SPDX-License-Identifier: GPL-3.0-or-later
-- How long an access token lives, readable in SQL as current_setting('app.settings.jwt_exp'). The signing secret is not
-- stored in the database. Runs once, as postgres.
\set jwt_exp `printf '%s' "$JWT_EXP"`

alter database postgres set "app.settings.jwt_exp" to :'jwt_exp';
