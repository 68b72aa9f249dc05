-- The subtree is one range of a btree on the path: it begins after the path itself, and ends before
-- the path whose last label has the smallest label character appended. Where the label can hold no
-- more, the range ends with the table, and what is not below is left out one by one.
SELECT t.refresh_no, t.content_token, t.age, d.id, d.path::text, d.name, p.id
  FROM (SELECT e.{id} AS id, e.{path} AS path, char_length(l.label) < 255 AS short,
               CASE WHEN char_length(l.label) < 255
                    THEN (CASE WHEN {ltree}.nlevel(e.{path}) > 1
                               THEN {ltree}.subpath(e.{path}, 0, -1)::text || '.' ELSE '' END
                          || l.label || {least})::{ltree}.ltree
                    WHEN l.label IS NOT NULL
                    THEN (SELECT m.{path} OPERATOR({ltree}.||) '0'::text FROM {table} m
                           WHERE m.{path} IS NOT NULL ORDER BY m.{path} DESC LIMIT 1) END AS beyond
          FROM {table} e
         CROSS JOIN LATERAL (
               SELECT CASE WHEN {ltree}.nlevel(e.{path}) > 0
                           THEN {ltree}.subpath(e.{path}, -1)::text END AS label) l
         WHERE e.{id} = %(id)s) p
  LEFT JOIN ({tag}) t ON true
  LEFT JOIN LATERAL (
       SELECT e.{id} AS id, e.{path} AS path, {entity_name} AS name
         FROM {table} e
        WHERE e.{path} OPERATOR({ltree}.>) p.path AND e.{path} OPERATOR({ltree}.<) p.beyond
          AND e.{path} OPERATOR({ltree}.>=) coalesce(%(after_path)s::{ltree}.ltree, p.path)
          AND (%(after_path)s::{ltree}.ltree IS NULL
               OR e.{path} OPERATOR({ltree}.>) %(after_path)s::{ltree}.ltree
               OR e.{id} > %(after_id)s)
          AND (p.short OR e.{path} OPERATOR({ltree}.<@) p.path)
          AND (%(depth)s::integer IS NULL
               OR {ltree}.nlevel(e.{path}) <= {ltree}.nlevel(p.path) + %(depth)s::integer)
        ORDER BY e.{path}, e.{id}
        LIMIT %(limit)s) d ON true
 ORDER BY d.path, d.id
