-- The subtree is one range of a btree on the path: it begins after the path itself, and ends before
-- the path whose last label has the smallest label character appended.
SELECT t.refresh_no, t.content_token, t.age, d.id, d.path, d.name
  FROM (SELECT e.{path} AS path,
               (CASE WHEN {ltree}.nlevel(e.{path}) > 1
                     THEN {ltree}.subpath(e.{path}, 0, -1)::text || '.' ELSE '' END
                || {ltree}.subpath(e.{path}, -1)::text || {least})::{ltree}.ltree AS beyond
          FROM {table} e
         WHERE e.{id} = %(id)s) p
  LEFT JOIN ({tag}) t ON true
  LEFT JOIN LATERAL (
       SELECT e.{id} AS id, e.{path}::text AS path, {entity_name} AS name
         FROM {table} e
        WHERE e.{path} > p.path AND e.{path} < p.beyond
          AND e.{path} >= coalesce(%(after_path)s::{ltree}.ltree, p.path)
          AND (%(after_path)s::{ltree}.ltree IS NULL
               OR (e.{path}, e.{id}) > (%(after_path)s::{ltree}.ltree, %(after_id)s))
          AND (%(depth)s::integer IS NULL
               OR {ltree}.nlevel(e.{path}) <= {ltree}.nlevel(p.path) + %(depth)s::integer)
        ORDER BY e.{path}, e.{id}
        LIMIT %(limit)s) d ON true
 ORDER BY d.path::{ltree}.ltree, d.id
