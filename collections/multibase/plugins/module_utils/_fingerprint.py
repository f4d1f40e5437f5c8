# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What a database holds, short enough to be compared: rows, rights, extensions, settings.

Counted in one snapshot and compared after a restore, it tells that nothing was lost, changed or opened. Rights are
compared with PostgreSQL's defaults written out, because a dump holds only what differs from them: restored under
Supabase's default privileges, an object would get back what its owner had revoked (measured).
"""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ._database import quote_identifier, quote_literal

Ask = Callable[[str], Any]

# Requests that wait to be sent are not part of a backup: restored, they would be sent again.
EXCLUDED_DATA: Tuple[Tuple[str, str], ...] = (("net", "http_request_queue"), ("net", "_http_response"))

_SYSTEM = "('pg_catalog', 'information_schema', 'pg_toast')"
_OURS = "n.nspname NOT IN {0} AND n.nspname NOT LIKE 'pg\\_%'".format(_SYSTEM)

# What belongs to an extension, with its name. Of one that has another version, only numbers of rows are compared.
_MEMBERS = """
  SELECT d.classid, d.objid, e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
  WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
"""


def _plain(expression: str) -> str:
    """Return SQL for a deparsed expression without casts, blanks and parentheses.

    PostgreSQL writes an expression differently once it was dumped and loaded: a list of varchar is cast as a whole
    before and element by element afterwards, and conditions are grouped anew.
    """
    pattern = (
        r"""::("[^"]+"|[a-z_][a-z0-9_.]*)( varying| precision| with(out)? time zone)?(\(\d+(,\d+)?\))?(\[\])*|[()\s]"""
    )
    return "regexp_replace({0}, '{1}', '', 'g')".format(expression, pattern)


# Tables with rows of their own: no partitioned parents, no foreign tables. With the extension that each belongs to, and
# whether a dump leaves its rows out.
_TABLES = """
WITH members AS ({members})
SELECT coalesce(json_agg(json_build_array(n.nspname, c.relname, m.extname,
  m.extname IS NOT NULL AND coalesce(e.extcondition[array_position(e.extconfig, c.oid)], 'none') <> '')
  ORDER BY n.nspname, c.relname), '[]')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN members m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
LEFT JOIN pg_extension e ON e.extname = m.extname
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND {ours}
""".format(members=_MEMBERS, ours=_OURS)

# Read before a dump begins: sequences do not belong to its snapshot, and may only have gone on when it reads them.
SEQUENCES = """
WITH members AS ({members})
SELECT coalesce(json_object_agg(n.nspname || '.' || c.relname, json_build_array(v.last_value, v.increment_by)), '{{}}')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_sequences v ON v.schemaname = n.nspname AND v.sequencename = c.relname
LEFT JOIN members m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
WHERE c.relkind = 'S' AND m.objid IS NULL AND NOT v.cycle AND v.last_value IS NOT NULL AND {ours}
""".format(members=_MEMBERS, ours=_OURS)

MATERIALISED_VIEWS = """
SELECT coalesce(json_agg(json_build_array(n.nspname, c.relname) ORDER BY c.oid), '[]')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND c.relispopulated AND {ours}
""".format(ours=_OURS)

SUBSCRIPTIONS = """
SELECT coalesce(json_agg(subname ORDER BY subname), '[]') FROM pg_subscription s
JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database() AND s.subenabled
"""

_LARGE_OBJECTS = """
SELECT json_build_array(
  (SELECT count(*) FROM pg_largeobject_metadata),
  (SELECT coalesce(sum(hashtextextended(loid || '/' || pageno || '/' || encode(data, 'hex'), 0)), 0)::text
   FROM pg_largeobject))
"""

# One line per right on one object, digested by schema: enough to say where a difference is.
_RIGHTS = """
WITH members AS ({members}), objects AS (
  SELECT 'pg_class'::regclass AS classid, c.oid AS objid, n.nspname AS place, 'relation ' || c.relname AS what,
    c.relowner AS owner,
    coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) AS acl
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND {ours}
  UNION ALL
  SELECT 'pg_class'::regclass, c.oid, n.nspname, 'column ' || c.relname || '.' || a.attname, c.relowner, a.attacl
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE a.attacl IS NOT NULL AND NOT a.attisdropped AND {ours}
  UNION ALL
  SELECT 'pg_proc'::regclass, p.oid, n.nspname,
    'function ' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', p.proowner,
    coalesce(p.proacl, acldefault('f', p.proowner))
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {ours}
  UNION ALL
  SELECT 'pg_type'::regclass, t.oid, n.nspname, 'type ' || t.typname, t.typowner,
    coalesce(t.typacl, acldefault('T', t.typowner))
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
  WHERE {ours} AND t.typelem = 0
    AND (t.typrelid = 0 OR EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
  UNION ALL
  SELECT 'pg_namespace'::regclass, n.oid, n.nspname, 'schema', n.nspowner,
    coalesce(n.nspacl, acldefault('n', n.nspowner))
  FROM pg_namespace n WHERE {ours}
  UNION ALL
  SELECT 0, 0, '(default privileges)', coalesce(n.nspname, '') || ' ' || d.defaclobjtype::text || ' of '
    || pg_get_userbyid(d.defaclrole), d.defaclrole, d.defaclacl
  FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
  UNION ALL
  SELECT 0, 0, '(database)', 'database', d.datdba, coalesce(d.datacl, acldefault('d', d.datdba))
  FROM pg_database d WHERE d.datname = current_database()
  UNION ALL
  SELECT 0, 0, '(large objects)', l.oid::text, l.lomowner, coalesce(l.lomacl, acldefault('L', l.lomowner))
  FROM pg_largeobject_metadata l
), lines AS (
  SELECT coalesce('extension ' || m.extname, place) AS place, concat_ws('|', what, pg_get_userbyid(owner),
    (SELECT string_agg(concat_ws(':', CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee) END,
       pg_get_userbyid(x.grantor), x.privilege_type, x.is_grantable), ',' ORDER BY concat_ws(':',
         CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee) END, pg_get_userbyid(x.grantor),
         x.privilege_type, x.is_grantable) COLLATE "C")
     FROM aclexplode(acl) x)) AS line
  FROM objects LEFT JOIN members m USING (classid, objid)
), places AS (
  SELECT place, md5(string_agg(line, E'\\n' ORDER BY line COLLATE "C")) AS digest, count(*) AS objects
  FROM lines GROUP BY place
)
SELECT coalesce(json_object_agg(place, digest), '{{}}') FROM places
""".format(members=_MEMBERS, ours=_OURS)

_MEMBER_FUNCTION = (
    "EXISTS (SELECT FROM pg_depend m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid AND m.deptype = 'e')"
)
# Row security and what is attached to tables, by their definitions: a policy that is gone opens a table.
_DEFINITIONS = """
WITH members AS ({members}), lines AS (
  SELECT 'policy' AS kind, p.polrelid AS objid, concat_ws('|', p.polrelid::regclass, p.polname, p.polpermissive,
    p.polcmd, (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r) END, ',' ORDER BY 1)
      FROM unnest(p.polroles) r), {qual}, {with_check}) AS line FROM pg_policy p
  UNION ALL
  SELECT 'row security', c.oid, concat_ws('|', n.nspname, c.relname, c.relrowsecurity, c.relforcerowsecurity)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND {ours}
  UNION ALL
  SELECT 'trigger', c.oid, concat_ws('|', {trigger}, t.tgenabled) FROM pg_trigger t
  JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE NOT t.tgisinternal AND {ours}
  UNION ALL
  SELECT 'event trigger', 0, concat_ws('|', evtname, evtevent, evtenabled, evttags::text, evtfoid::regprocedure::text)
  FROM pg_event_trigger
  UNION ALL
  SELECT 'publication', 0, concat_ws('|', p.pubname, p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete,
    p.pubtruncate, (SELECT string_agg(concat_ws('.', t.schemaname, t.tablename), ',' ORDER BY t.schemaname, t.tablename)
     FROM pg_publication_tables t WHERE t.pubname = p.pubname)) FROM pg_publication p
  UNION ALL
  SELECT 'constraint', c.conrelid, concat_ws('|', n.nspname, c.conrelid::regclass::text, c.contypid::regtype::text,
    c.conname, {constraint}, c.convalidated)
  FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace WHERE {ours}
  UNION ALL
  SELECT 'index', i.indrelid, {index} FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {ours}
  UNION ALL
  SELECT 'view', c.oid, n.nspname || '.' || c.relname || {view} FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND {ours}
  UNION ALL
  SELECT 'column', c.oid, concat_ws('|', c.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
    a.attidentity, a.attgenerated, {default_value})
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
  WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {ours}
  UNION ALL
  SELECT 'enumeration', 0, concat_ws('|', e.enumtypid::regtype, string_agg(e.enumlabel, '|' ORDER BY e.enumsortorder))
  FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace
  WHERE {ours} GROUP BY e.enumtypid
), functions AS (
  SELECT coalesce('extension ' || m.extname, 'function') AS kind, concat_ws('|', p.oid::regprocedure,
    pg_get_userbyid(p.proowner), p.prosecdef, p.proconfig::text,
    CASE WHEN m.extname IS NULL THEN concat_ws('|', p.provolatile, p.proparallel, p.proisstrict, p.proleakproof,
      l.lanname, pg_get_function_result(p.oid), {arguments}, p.prosrc, {body}) END) AS line
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
  LEFT JOIN members m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
  WHERE p.prokind <> 'a' AND {ours}
), kinds AS (
  SELECT kind, md5(string_agg(line, E'\\n' ORDER BY line COLLATE "C")) AS digest FROM (
    SELECT coalesce('extension ' || m.extname, kind) AS kind, line FROM lines
    LEFT JOIN members m ON m.classid = 'pg_class'::regclass AND m.objid = lines.objid
    UNION ALL
    SELECT kind, line FROM functions) every
  GROUP BY kind
)
SELECT coalesce(json_object_agg(kind, digest), '{{}}') FROM kinds
""".format(
    members=_MEMBERS,
    ours=_OURS,
    qual=_plain("pg_get_expr(p.polqual, p.polrelid)"),
    with_check=_plain("pg_get_expr(p.polwithcheck, p.polrelid)"),
    trigger=_plain("pg_get_triggerdef(t.oid)"),
    constraint=_plain("pg_get_constraintdef(c.oid)"),
    index=_plain("pg_get_indexdef(i.indexrelid)"),
    view=_plain("pg_get_viewdef(c.oid)"),
    default_value=_plain("pg_get_expr(d.adbin, d.adrelid)"),
    arguments=_plain("pg_get_function_arguments(p.oid)"),
    body=_plain("pg_get_function_sqlbody(p.oid)"),
)

_EXTENSIONS = """
SELECT coalesce(json_object_agg(e.extname, json_build_array(e.extversion, n.nspname,
  pg_get_userbyid(e.extowner))), '{}')
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
"""

_SETTINGS = """
SELECT coalesce(json_agg(json_build_array(coalesce(pg_get_userbyid(nullif(s.setrole, 0)), ''), entry)
  ORDER BY s.setrole <> 0, pg_get_userbyid(s.setrole), entry), '[]')
FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase CROSS JOIN unnest(s.setconfig) AS entry
WHERE d.datname = current_database()
"""

# Passwords are no part of it: they stay those of the instance that a backup is restored into.
ROLES = """
SELECT coalesce(json_object_agg(r.rolname, json_build_array(
  r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin, r.rolreplication, r.rolbypassrls,
  r.rolconnlimit,
  (SELECT coalesce(json_agg(entry ORDER BY entry), '[]') FROM pg_db_role_setting s
   CROSS JOIN unnest(s.setconfig) AS entry WHERE s.setrole = r.oid AND s.setdatabase = 0),
  (SELECT coalesce(json_agg(DISTINCT pg_get_userbyid(m.roleid) || ':' || m.admin_option), '[]')
   FROM pg_auth_members m WHERE m.member = r.oid))), '{}')
FROM pg_roles r WHERE r.rolname NOT LIKE 'pg\\_%'
"""


class Table(NamedTuple):
    """A table whose rows are counted. ``left_out``: a dump does not have its rows, because an extension owns it."""

    schema: str
    name: str
    extension: Optional[str]
    left_out: bool

    @property
    def key(self) -> str:
        return "{0}.{1}".format(self.schema, self.name)


def tables(ask: Ask) -> List[Table]:
    """Return every table whose rows are counted."""
    found = [Table(str(schema), str(name), extension, bool(left)) for schema, name, extension, left in ask(_TABLES)]
    return [table for table in found if (table.schema, table.name) not in EXCLUDED_DATA]


def table_query(schema: str, name: str) -> str:
    """Return the query for [rows, sum of 64-bit row hashes as text] of one table, without its children."""
    # With .* it is the row also where a column has the same name.
    return (
        "SELECT json_build_array(count(*), coalesce(sum(hashtextextended((multibase_row.*)::text, 0)), 0)::text) "
        "FROM ONLY {0}.{1} AS multibase_row".format(quote_identifier(schema), quote_identifier(name))
    )


def copy_script(ask: Ask, left_out: Sequence[Table], snapshot: str) -> str:
    """Return a script for psql that prints SQL with the rows of tables that a dump leaves out, as of a snapshot."""
    lines = [
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;",
        "SET TRANSACTION SNAPSHOT {0};".format(quote_literal(snapshot)),
        "SELECT 'SET session_replication_role = replica;';",
    ]
    for table in left_out:
        name = "{0}.{1}".format(quote_identifier(table.schema), quote_identifier(table.name))
        columns = ", ".join(quote_identifier(str(column)) for column in ask(_COLUMNS.format(quote_literal(name))))
        lines += [
            "SELECT {0};".format(quote_literal("DELETE FROM {0};".format(name))),
            "SELECT {0};".format(quote_literal("COPY {0} ({1}) FROM stdin;".format(name, columns))),
            "COPY (SELECT {0} FROM ONLY {1}) TO STDOUT;".format(columns, name),
            "SELECT {0};".format(quote_literal("\\.")),
        ]
    return "\n".join(lines) + "\n"


_COLUMNS = """
SELECT coalesce(json_agg(attname ORDER BY attnum), '[]') FROM pg_attribute
WHERE attrelid = {0}::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
"""


def structure(ask: Ask) -> Dict[str, Any]:
    """Return what is compared besides rows: rights, definitions, extensions, settings."""
    return {
        "rights": ask(_RIGHTS),
        "definitions": ask(_DEFINITIONS),
        "extensions": ask(_EXTENSIONS),
        "settings": ask(_SETTINGS),
    }


def rows(ask: Ask) -> Dict[str, Any]:
    """Return {"schema.table": [rows, hash, extension]}, and of the large objects under ``(large objects)``."""
    counted = {table.key: [*ask(table_query(table.schema, table.name)), table.extension] for table in tables(ask)}
    counted["(large objects)"] = [*ask(_LARGE_OBJECTS), None]
    return counted


def take(ask: Ask) -> Dict[str, Any]:
    """Return the whole fingerprint of a database but for sequences, as JSON values."""
    return {"tables": rows(ask), **structure(ask)}


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> List[str]:
    """Say how a restored database differs from the manifest's, one phrase each. An empty list: it is the same.

    Another version of an extension is none: the image brings its own, and the dump asks for no version. Its tables may
    then have other columns, so that no hash is the same; rows that are missing are a difference all the same.
    """
    said: List[str] = []
    changed = {
        name
        for name, before in expected["extensions"].items()
        if name in found["extensions"] and found["extensions"][name][0] != before[0]
    }
    for name in sorted(set(expected["tables"]) | set(found["tables"])):
        before, after = expected["tables"].get(name), found["tables"].get(name)
        if before == after:
            continue
        if (before or after)[2] in changed:
            # Where there were none, the other version brings what there is.
            if before is not None and before[0] and (after is None or after[0] != before[0]):
                said.append(
                    "table {0} of extension {1}, which is another version now, {2}".format(
                        name,
                        before[2],
                        "is missing" if after is None else "has {0} rows instead of {1}".format(after[0], before[0]),
                    )
                )
            continue
        if before is None or after is None:
            said.append("table {0} is {1}".format(name, "missing" if after is None else "not in the manifest"))
        elif before[0] != after[0]:
            said.append("table {0} has {1} rows instead of {2}".format(name, after[0], before[0]))
        elif before[1] != after[1]:
            said.append("table {0} has other rows (hash {1} instead of {2})".format(name, after[1], before[1]))
    skipped = {"extension " + name for name in changed}
    for part, words in (("rights", "rights in {0}"), ("definitions", "{0} definitions")):
        for name in sorted((set(expected[part]) | set(found[part])) - skipped):
            if expected[part].get(name) != found[part].get(name):
                said.append(words.format(name) + " differ")
    said += sequence_differences(expected.get("sequences") or {}, found.get("sequences") or {})
    missing = sorted(set(expected["extensions"]) - set(found["extensions"]))
    said += ["extension {0} is missing".format(name) for name in missing]
    said += [
        "extension {0} is of {1} in {2}, not of {3} in {4}".format(name, after[2], after[1], before[2], before[1])
        for name, before in sorted(expected["extensions"].items())
        for after in [found["extensions"].get(name, before)]
        if after[1:] != before[1:]
    ]
    if expected["settings"] != found["settings"]:
        said.append("settings of the database or of roles in it differ")
    return said


def sequence_differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> List[str]:
    """Say which sequences stand before where they stood when the dump began: they would give out numbers twice."""
    said = []
    for name, (before, increment) in sorted(expected.items()):
        after = (found.get(name) or [None])[0]
        if after is None or (after < before if increment > 0 else after > before):
            said.append("sequence {0} stands at {1} instead of {2}".format(name, after, before))
    return said


def role_differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> List[str]:
    """Say which roles of the manifest are missing or have other attributes, settings or memberships."""
    said = []
    for name in sorted(expected):
        if name not in found:
            said.append("role {0} is missing".format(name))
        elif expected[name] != found[name]:
            said.append("role {0} has other attributes, settings or memberships".format(name))
    return said


# What a dump leaves out: how functions of extensions run. Supabase lets those of pg_net run as their owner.
EXTENSION_FUNCTIONS = """
SELECT coalesce(json_agg(json_build_array(p.oid::regprocedure, p.prosecdef, p.proconfig) ORDER BY 1), '[]')
FROM (SELECT * FROM pg_proc p WHERE {0}) p WHERE p.prosecdef OR p.proconfig IS NOT NULL
""".format(_MEMBER_FUNCTION)


def extension_functions_sql(functions: List[List[Any]]) -> str:
    """Return the statements that let functions of extensions run as they did, given what EXTENSION_FUNCTIONS told.

    The catalogue is changed, in a server that nobody else uses, so that what the manifest says is never SQL.
    """
    statements = [FIXED_PATH]
    for identity, definer, settings in functions:
        array = "NULL"
        if settings is not None:
            array = "ARRAY[{0}]::text[]".format(", ".join(quote_literal(str(entry)) for entry in settings))
        statements.append(
            "UPDATE pg_proc SET prosecdef = {0}, proconfig = {1} WHERE oid = to_regprocedure({2});\n".format(
                "true" if definer else "false", array, quote_literal(str(identity))
            )
        )
    return "".join(statements)


FIXED_PATH = "SET search_path = pg_catalog;\n"


def extension_owners_sql(extensions: Mapping[str, Any]) -> str:
    """Return the statements that give extensions, and what belongs to them, back to their owners.

    A dump does not say whose an extension is, and PostgreSQL has no ALTER EXTENSION ... OWNER; the catalogue changes,
    in a server that nobody else uses. What this cannot give back, the comparison finds.
    """
    return "".join(
        _EXTENSION_OWNER.format(extension=quote_literal(name), owner=quote_literal(about[2]))
        for name, about in sorted(extensions.items())
    )


_EXTENSION_OWNER = """
DO $multibase$
DECLARE
  extension oid := (SELECT oid FROM pg_catalog.pg_extension WHERE extname = {extension});
  owner oid := (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = {owner});
  member record;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE oid = extension AND extowner <> owner) THEN
    RETURN;
  END IF;
  FOR member IN
    SELECT i.type, i.identity FROM pg_catalog.pg_depend d
    CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, 0) i
    WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.refobjid = extension AND d.deptype = 'e'
      AND i.type IN ('function', 'procedure', 'aggregate', 'table', 'view', 'materialized view', 'sequence',
        'foreign table', 'operator', 'operator class', 'operator family', 'schema', 'event trigger')
      -- The sequence of a column goes with its table.
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend o WHERE o.classid = d.classid AND o.objid = d.objid
        AND o.refclassid = 'pg_catalog.pg_class'::regclass AND o.deptype IN ('a', 'i'))
  LOOP
    EXECUTE pg_catalog.format('ALTER %s %s OWNER TO %I', member.type, member.identity, {owner});
  END LOOP;
  FOR member IN
    SELECT t.oid::regtype AS identity FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_type t ON t.oid = d.objid
    WHERE d.classid = 'pg_catalog.pg_type'::regclass AND d.refclassid = 'pg_catalog.pg_extension'::regclass
      AND d.refobjid = extension AND d.deptype = 'e' AND t.typelem = 0 AND t.typrelid = 0
  LOOP
    EXECUTE pg_catalog.format('ALTER TYPE %s OWNER TO %I', member.identity, {owner});
  END LOOP;
  UPDATE pg_catalog.pg_extension SET extowner = owner WHERE oid = extension;
  DELETE FROM pg_catalog.pg_shdepend WHERE classid = 'pg_catalog.pg_extension'::regclass AND objid = extension
    AND dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database());
  -- Of roles that a cluster cannot be without, as its first superuser, no dependency is recorded.
  IF owner >= 16384 THEN
    INSERT INTO pg_catalog.pg_shdepend (dbid, classid, objid, objsubid, refclassid, refobjid, deptype)
    SELECT oid, 'pg_catalog.pg_extension'::regclass, extension, 0, 'pg_catalog.pg_authid'::regclass, owner, 'o'
    FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database();
  END IF;
END
$multibase$;
"""

# Settings whose value is a list of names that pg_db_role_setting holds quoted already (GUC_LIST_QUOTE in guc_tables.c).
_LISTS = frozenset(
    (
        "local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries",
        "temp_tablespaces", "unix_socket_directories", "extwlist.extensions",
    )
)  # fmt: skip


_LIST_ELEMENT = re.compile(r'"((?:[^"]|"")*)"|([^",]+)')


def settings_sql(database: str, settings: List[List[str]]) -> str:
    """Return the statements that give a database, and roles in it, the settings that a plain dump leaves out."""
    statements = []
    for role, entry in settings:
        name, _separator, value = entry.partition("=")
        text = quote_literal(value)
        if name.lower() in _LISTS and value:
            # Taken apart and quoted again: a manifest of unknown origin may say anything here.
            elements = _LIST_ELEMENT.findall(value)
            text = ", ".join(
                quote_identifier(quoted.replace('""', '"') if quoted else plain.strip().lower())
                for quoted, plain in elements
                if quoted or plain.strip()
            ) or quote_literal(value)
        setting = ".".join(quote_identifier(part) for part in name.split("."))
        target = "ROLE {0} IN DATABASE {1}".format(quote_identifier(role), quote_identifier(database))
        if not role:
            target = "DATABASE {0}".format(quote_identifier(database))
        statements.append("ALTER {0} SET {1} TO {2};\n".format(target, setting, text))
    return "".join(statements)
