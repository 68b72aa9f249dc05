-- What reads what: views and matviews by their rules, functions with an SQL body by their
-- dependencies, partitioned tables by their partitions. One row an edge, reader first.
-- Oids are unique within one catalog only, so those of functions are given as negative numbers.
-- Built-in views are no readers of ours: everything pinned or below 16384 is left out.
WITH edge AS (
    SELECT r.ev_class::bigint AS reader, d.refclassid AS class, d.refobjid AS target
      FROM pg_rewrite r
      JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
     WHERE r.ev_class >= 16384
       AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass)
       AND (d.refclassid, d.refobjid) <> ('pg_class'::regclass, r.ev_class)
    UNION
    SELECT -p.oid::bigint, d.refclassid, d.refobjid
      FROM pg_proc p
      JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
     WHERE p.oid >= 16384
       AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass)
       AND d.deptype = 'n'
    UNION
    SELECT i.inhparent::bigint, 'pg_class'::regclass, i.inhrelid
      FROM pg_inherits i
      JOIN pg_class c ON c.oid = i.inhrelid AND c.relkind IN ('r', 'p', 'f')
)
SELECT edge.reader,
       CASE edge.class WHEN 'pg_proc'::regclass THEN -edge.target::bigint
                       ELSE edge.target::bigint END,
       n.nspname, c.relname, c.relkind::text
  FROM edge
  LEFT JOIN pg_class c ON edge.class = 'pg_class'::regclass AND c.oid = edge.target
  LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE edge.class = 'pg_proc'::regclass OR c.relkind IN ('r', 'v', 'm', 'p', 'f')
