-- The tags of several views, in one statement: nulls where nobody can tell. How a content came about
-- is told to who does not know it yet.
SELECT v.place::text, s.refresh_no::text, s.content_token::text,
       extract(epoch FROM clock_timestamp() - s.content_as_of)::float8::text AS age,
       s.epoch::text,
       CASE WHEN s.content_token IS DISTINCT FROM v.known THEN s.changes::text END AS changes
  FROM (VALUES {views}) v (place, name, known)
  LEFT JOIN pg_catalog.pg_class c ON c.oid = {oid}
  LEFT JOIN {state} s ON s.view = c.oid AND s.xmin = c.xmin
