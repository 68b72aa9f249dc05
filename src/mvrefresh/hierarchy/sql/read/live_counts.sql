-- From the table itself, by the path: what the view does not hold yet. A parent across a gap is the
-- nearest entity above, as in the view.
-- The subtree is one range of any index on the path (`descendants.sql` explains it), read once and
-- put in order once. With ' ' for each dot, which sorts before all that a label may hold, text has
-- the order of the paths: what is below x lies between x and x || '!', right after x.
SELECT p.id, coalesce(d.children, 0), coalesce(d.entities, 0), coalesce(d.leaves, 0),
       coalesce(d.deepest - {ltree}.nlevel(p.path), 0), {ltree}.nlevel(p.path) - 1, p.type
  FROM (SELECT e.{id} AS id, e.{path} AS path, {type} AS type, char_length(l.label) < 255 AS short,
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
         WHERE e.{id} = ANY (%s)) p
  LEFT JOIN LATERAL (
       SELECT sum(entities) FILTER (WHERE NOT has_parent)::bigint AS children,
              sum(entities)::bigint AS entities,
              sum(entities) FILTER (WHERE NOT has_children)::bigint AS leaves,
              max(level) AS deepest
         FROM (SELECT entities, level,
                      coalesce(max(place || '!') OVER above > place, false) AS has_parent,
                      coalesce(lead(place) OVER whole < place || '!', false) AS has_children
                 FROM (SELECT replace(c.{path}::text, '.', ' ') COLLATE "C" AS place,
                              {ltree}.nlevel(c.{path}) AS level, count(*) AS entities
                         FROM {table} c
                        WHERE c.{path} OPERATOR({ltree}.>) p.path
                          AND c.{path} OPERATOR({ltree}.<) p.beyond
                          AND (p.short OR c.{path} OPERATOR({ltree}.<@) p.path)
                        GROUP BY 1, 2) paths
               WINDOW whole AS (ORDER BY place),
                      above AS (whole ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) placed
       ) d ON true
