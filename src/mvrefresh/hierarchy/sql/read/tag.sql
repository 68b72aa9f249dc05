-- The tag of a view's content: none where the view was never refreshed by us, or by others since.
SELECT s.refresh_no, s.content_token, s.content_as_of,
       extract(epoch FROM clock_timestamp() - s.content_as_of)::float8 AS age
  FROM {state} s
  JOIN pg_class c ON c.oid = s.view AND c.xmin = s.xmin
 WHERE s.view = {view_name}::regclass::oid
