-- Functions in the definitions that do not give the same answer twice. Built-in functions are
-- absent from pg_depend (they are pinned), so their ids are read out of the stored parse tree.
-- CURRENT_TIMESTAMP and its kin are nodes of their own there (SQLVALUEFUNCTION, op 0 to 8).
WITH used AS (
    SELECT DISTINCT r.ev_class AS reader, m.match[1]::oid AS proc
      FROM pg_rewrite r
     CROSS JOIN LATERAL regexp_matches(
               r.ev_action::text,
               ':(?:funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)', 'g') AS m (match)
     WHERE r.ev_class >= 16384
    UNION
    SELECT DISTINCT r.ev_class, o.oprcode::oid
      FROM pg_rewrite r
     CROSS JOIN LATERAL regexp_matches(r.ev_action::text, ':opno ([0-9]+)', 'g') AS m (match)
      JOIN pg_operator o ON o.oid = m.match[1]::oid
     WHERE r.ev_class >= 16384
)
SELECT used.reader::bigint,
       CASE WHEN n.nspname = 'pg_catalog' THEN p.proname
            ELSE n.nspname || '.' || p.proname END AS function,
       n.nspname = 'pg_catalog' AND p.proname IN (
           'now', 'transaction_timestamp', 'statement_timestamp', 'clock_timestamp', 'timeofday'
       ) OR n.nspname = 'pg_catalog' AND p.proname = 'age' AND p.pronargs = 1 AS clock,
       p.provolatile = 'v' AS volatile
  FROM used
  JOIN pg_proc p ON p.oid = used.proc
  JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE p.provolatile = 'v'
    OR n.nspname = 'pg_catalog' AND p.proname IN (
           'now', 'transaction_timestamp', 'statement_timestamp', 'age')
UNION
SELECT DISTINCT r.ev_class::bigint, (ARRAY[
           'current_date', 'current_time', 'current_time', 'current_timestamp',
           'current_timestamp', 'localtime', 'localtime', 'localtimestamp', 'localtimestamp'
       ])[m.match[1]::int + 1], true, false
  FROM pg_rewrite r
 CROSS JOIN LATERAL regexp_matches(
           r.ev_action::text, '\{SQLVALUEFUNCTION :op ([0-9]+)', 'g') AS m (match)
 WHERE r.ev_class >= 16384 AND m.match[1]::int <= 8
