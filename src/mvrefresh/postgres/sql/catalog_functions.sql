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
       CASE WHEN f.built_in THEN f.proname ELSE f.nspname || '.' || f.proname END AS function,
       f.clock
  FROM used
  JOIN (SELECT p.oid, p.proname, n.nspname, p.provolatile, n.nspname = 'pg_catalog' AS built_in,
               n.nspname = 'pg_catalog' AND (
                   p.proname IN ('now', 'transaction_timestamp', 'statement_timestamp',
                                 'clock_timestamp', 'timeofday')
                   OR p.proname = 'age' AND p.pronargs = 1) AS clock
          FROM pg_proc p
          JOIN pg_namespace n ON n.oid = p.pronamespace) f ON f.oid = used.proc
 WHERE f.clock OR f.provolatile = 'v'
UNION
SELECT DISTINCT r.ev_class::bigint, (ARRAY[
           'current_date', 'current_time', 'current_time', 'current_timestamp',
           'current_timestamp', 'localtime', 'localtime', 'localtimestamp', 'localtimestamp'
       ])[m.match[1]::int + 1], true
  FROM pg_rewrite r
 CROSS JOIN LATERAL regexp_matches(
           r.ev_action::text, '\{SQLVALUEFUNCTION :op ([0-9]+)', 'g') AS m (match)
 WHERE r.ev_class >= 16384 AND m.match[1]::int <= 8
