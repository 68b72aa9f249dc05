-- What lies below each entity, counted family by family: all entities with the same parent path
-- are one row from the start, so the work grows with the families and not with pairs of
-- entities. Text, because ltree cannot be hashed before PostgreSQL 17.
CREATE MATERIALIZED VIEW {view} AS
WITH RECURSIVE
family AS MATERIALIZED (   -- the children of one path, whether or not that path is an entity
    SELECT path, left(path, -strpos(reverse(path), '.')) AS above, children, deepest
      FROM (SELECT path, count(*) AS children, max(level) AS deepest
              FROM (SELECT {ltree}.subpath({path}, 0, -1)::text COLLATE "C" AS path,
                           {ltree}.nlevel({path}) AS level
                      FROM {table}
                     WHERE {ltree}.nlevel({path}) > 1
                    OFFSET 0) child
             GROUP BY path) f
),
seat AS MATERIALIZED (     -- the entities at that path; without one there is a gap (id is null)
    SELECT f.path, f.above, f.children, e.{id} AS id
      FROM family f
      LEFT JOIN {table} e ON e.{path}::text = f.path
),
gap AS MATERIALIZED (      -- the paths above a gap
    SELECT s.path AS missing, s.children, l.level,
           {ltree}.subpath(s.path::{ltree}.ltree, 0, l.level::integer - 1)::text
           COLLATE "C" AS path
      FROM seat s
     CROSS JOIN LATERAL unnest(string_to_array(s.path, '.')) WITH ORDINALITY l (label, level)
     WHERE s.id IS NULL AND l.level > 1
),
bridge AS MATERIALIZED (   -- those of them that have entities
    SELECT g.path, count(*) AS entities
      FROM (SELECT DISTINCT path FROM gap) g
      JOIN {table} e ON e.{path}::text = g.path
     GROUP BY g.path
),
nearest AS MATERIALIZED (  -- children below a gap belong to the nearest entity above it
    SELECT DISTINCT ON (g.missing) g.path, g.children
      FROM gap g
      JOIN bridge b ON b.path = g.path
     ORDER BY g.missing, g.level DESC
),
walk (path, entities, parents, deepest) AS (  -- a family's count, carried up a level at a time
    SELECT above, sum(entities)::bigint, sum(parents)::bigint, max(deepest)
      FROM (SELECT above, children AS entities, 0 AS parents, deepest FROM family
            UNION ALL
            SELECT above, 0, 1, NULL FROM seat WHERE id IS NOT NULL
            UNION ALL
            SELECT left(b.path, -strpos(reverse(b.path), '.')), 0, b.entities, NULL
              FROM bridge b
             WHERE NOT EXISTS (SELECT FROM family f WHERE f.path = b.path)) s
     WHERE above <> ''
     GROUP BY above
    UNION ALL
    SELECT above, sum(entities)::bigint, sum(parents)::bigint, max(deepest)
      FROM (SELECT left(path, -strpos(reverse(path), '.')) AS above, entities, parents, deepest
              FROM walk) s
     WHERE above <> ''
     GROUP BY above
),
tally AS (
    SELECT path, sum(direct)::bigint AS direct, sum(entities)::bigint AS entities,
           sum(parents)::bigint AS parents, max(deepest) AS deepest
      FROM (SELECT path, children AS direct, children AS entities, 0 AS parents, deepest
              FROM family
            UNION ALL
            SELECT path, 0, entities, parents, deepest FROM walk
            UNION ALL
            SELECT path, children, 0, 0, NULL FROM nearest) s
     GROUP BY path
)
SELECT e.{id} AS entity_id,
       e.{path} AS entity_path,
       {type} AS entity_type,
       {ltree}.nlevel(e.{path}) - 1 AS depth,
       coalesce(t.direct, 0) AS direct_children,
       coalesce(t.entities, 0) AS descendant_count,
       coalesce(t.entities - t.parents, 0) AS leaf_descendants,
       coalesce(t.deepest - {ltree}.nlevel(e.{path}), 0) AS height
  FROM {table} e
  LEFT JOIN tally t ON t.path = e.{path}::text
{data}
