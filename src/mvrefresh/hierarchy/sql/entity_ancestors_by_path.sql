-- One row an entity, with its ancestors from the root down. Families (all entities with the same
-- parent path) share their ancestors, so the way down is walked once a family, a level at a time.
CREATE MATERIALIZED VIEW {view} AS
WITH RECURSIVE
family AS MATERIALIZED (   -- numbered: numbers join faster than paths
    SELECT row_number() OVER () AS number, path, left(path, -strpos(reverse(path), '.')) AS above
      FROM (SELECT path
              FROM (SELECT {ltree}.subpath({path}, 0, -1)::text COLLATE "C" AS path
                      FROM {table}
                     WHERE {ltree}.nlevel({path}) > 1
                    OFFSET 0) child
             GROUP BY path) f
),
seat AS MATERIALIZED (     -- the entities at that path; without one there is a gap (ids is null)
    SELECT f.number, f.path, f.above,
           array_agg(e.{id} ORDER BY e.{id}) FILTER (WHERE e.{id} IS NOT NULL) AS ids,
           array_agg({entity_name} ORDER BY e.{id}) FILTER (WHERE e.{id} IS NOT NULL) AS names
      FROM family f
      LEFT JOIN {table} e ON e.{path}::text = f.path
     GROUP BY f.number, f.path, f.above
),
gap AS MATERIALIZED (      -- paths above a gap, so that the way down is never interrupted
    SELECT -row_number() OVER () AS number, path, left(path, -strpos(reverse(path), '.')) AS above
      FROM (SELECT DISTINCT {ltree}.subpath(s.path::{ltree}.ltree, 0, l.level::integer)::text
                            COLLATE "C" AS path
              FROM seat s
             CROSS JOIN LATERAL unnest(string_to_array(s.path, '.')) WITH ORDINALITY l (label, level)
             WHERE s.ids IS NULL) p
     WHERE NOT EXISTS (SELECT FROM family f WHERE f.path = p.path)
),
place AS MATERIALIZED (
    SELECT p.number, coalesce(f.number, g.number, 0) AS above, p.path, p.ids, p.names
      FROM (SELECT number, path, above, ids, names FROM seat
            UNION ALL
            SELECT g.number, g.path, g.above,
                   array_agg(e.{id} ORDER BY e.{id}) FILTER (WHERE e.{id} IS NOT NULL),
                   array_agg({entity_name} ORDER BY e.{id}) FILTER (WHERE e.{id} IS NOT NULL)
              FROM gap g
              LEFT JOIN {table} e ON e.{path}::text = g.path
             GROUP BY g.number, g.path, g.above) p
      LEFT JOIN family f ON f.path = p.above
      LEFT JOIN gap g ON g.path = p.above
),
-- From number 0, which is nobody; its aggregates are nulls of the right types, and null || x is x.
trail (number, path, ids, paths, names) AS (
    SELECT 0::bigint, min(e.{path}::text COLLATE "C"), array_agg(e.{id}),
           array_agg(e.{path}::text COLLATE "C"), array_agg({entity_name})
      FROM {table} e
     WHERE false
    UNION ALL
    SELECT p.number, p.path, t.ids || p.ids,
           CASE WHEN p.ids IS NULL THEN t.paths
                ELSE t.paths || array_fill(p.path, ARRAY[cardinality(p.ids)]) END,
           t.names || p.names
      FROM trail t
      JOIN place p ON p.above = t.number
)
SELECT e.{id} AS entity_id,
       e.{path} AS entity_path,
       {entity_name} AS entity_name,
       coalesce(t.ids, '{{}}') AS ancestor_ids,
       coalesce(t.paths, '{{}}') AS ancestor_paths,
       coalesce(t.names, '{{}}') AS ancestor_names,
       {ltree}.nlevel(e.{path}) - 1 AS depth
  FROM {table} e
  LEFT JOIN trail t
    ON t.path = CASE WHEN {ltree}.nlevel(e.{path}) > 1
                     THEN {ltree}.subpath(e.{path}, 0, -1)::text END
{data}
