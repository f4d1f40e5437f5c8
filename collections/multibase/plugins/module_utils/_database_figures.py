# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""How a database is: size, connections, cache, oldest transaction, replication slots, dead rows, slow queries.

One question for all of it, asked of the container's server over the instance's own network. What is shown of slow
statements is for ``_statements`` to say.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Sequence

from . import _statements
from ._errors import MultibaseError
from ._postgres import Connection, Login

# More than are told of: utility statements are left out, and one that is cut here may still be cleaned.
_CANDIDATES, _CANDIDATE_LENGTH = 40, 4000
_SLOWEST = 5
_SETTINGS = "SET statement_timeout = '5s'; SET lock_timeout = '1s'; SET default_transaction_read_only = on;"
# The remark is for leaving ours out of the slow ones.
# Sizes are those of all databases together: the services' own are in there too.
_FIGURES = """
/* multibase */ SELECT json_build_object(
 'size_bytes', (SELECT sum(pg_database_size(oid))::bigint FROM pg_database WHERE datallowconn),
 'connections', (SELECT coalesce(json_object_agg(state, n), '{}') FROM (
    SELECT coalesce(state, 'background') AS state, count(*) AS n FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() GROUP BY 1) AS s),
 'max_connections', current_setting('max_connections')::int,
 'cache_hit_ratio', (SELECT round(sum(blks_hit) / nullif(sum(blks_hit) + sum(blks_read), 0), 5) FROM pg_stat_database),
 'oldest_transaction_seconds', (SELECT round(extract(epoch FROM now() - min(xact_start))::numeric, 1)
    FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
 'replication_slots', (SELECT coalesce(json_agg(json_build_object('name', slot_name, 'active', active, 'held_bytes',
    CASE WHEN restart_lsn IS NULL THEN NULL
         ELSE pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
              ELSE pg_current_wal_lsn() END, restart_lsn)::bigint END)
    ORDER BY slot_name), '[]') FROM pg_replication_slots),
 'wal_bytes', (SELECT sum(size)::bigint FROM pg_ls_waldir()),
 'dead_tuples', (SELECT sum(n_dead_tup)::bigint FROM pg_stat_user_tables),
 'statements', (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
    WHERE e.extname = 'pg_stat_statements')
)
"""
_SLOW = """
/* multibase */ SELECT coalesce(json_agg(s), '[]') FROM (
 SELECT left(query, {length}) AS query, calls,
  round(mean_exec_time::numeric, 3) AS mean_ms, round(total_exec_time::numeric, 1) AS total_ms
 FROM {schema}.pg_stat_statements
 WHERE query NOT LIKE '/* multibase */%' AND calls > 0
 ORDER BY total_exec_time DESC LIMIT {number}) AS s
"""


def read(login: Login, now: float, timeout: float = 10.0) -> Dict[str, Any]:
    """Return the figures as the schema of the live file has them. Raises MultibaseError."""
    with Connection(login, timeout) as connection:
        rows = connection.ask(_SETTINGS + _FIGURES)
        figures: Dict[str, Any] = json.loads(rows[-1][0] or "{}")
        schema = figures.pop("statements", None)
        figures["slow_queries"] = []
        if schema:
            query = _SLOW.format(schema=schema, length=_CANDIDATE_LENGTH, number=_CANDIDATES)
            try:
                figures["slow_queries"] = shown(json.loads(connection.ask(query)[-1][0] or "[]"))
            except MultibaseError:
                # Created, but not in shared_preload_libraries: the view cannot be read then.
                figures["slow_queries"] = []
    figures["checked_at"] = now
    return figures


def shown(rows: Sequence[Mapping[str, Any]]) -> List[Dict[str, Any]]:
    """Return the slowest statements that may be shown, in the order that they came in."""
    told: List[Dict[str, Any]] = []
    for row in rows:
        query = _statements.presentable(str(row["query"]))
        if query is not None and len(told) < _SLOWEST:
            told.append({**row, "query": query})
    return told
