-- The tags of several views, in one statement: nulls where nobody can tell.
SELECT v.place, s.refresh_no, s.content_token,
       extract(epoch FROM clock_timestamp() - s.content_as_of)::float8 AS age
  FROM (VALUES {views}) v (place, name)
  LEFT JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(v.name)
  LEFT JOIN {state} s ON s.view = c.oid AND s.xmin = c.xmin
