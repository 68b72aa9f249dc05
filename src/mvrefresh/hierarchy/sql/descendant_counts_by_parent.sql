-- What lies below each entity, by the parent's id. Each round of the recursion carries every
-- family's sums up one level. A parent that does not lie above its child by the path is no
-- parent: that also ends circles.
CREATE MATERIALIZED VIEW {view} AS
WITH RECURSIVE
node AS MATERIALIZED (
    SELECT e.{id} AS id, p.{id} AS parent, {ltree}.nlevel(e.{path}) AS level
      FROM {table} e
      LEFT JOIN {table} p
        ON p.{id} = e.{parent} AND {ltree}.nlevel(p.{path}) < {ltree}.nlevel(e.{path})
),
family AS MATERIALIZED (   -- the children of one parent
    SELECT n.id, n.parent AS above, f.children, f.deepest
      FROM (SELECT parent, count(*) AS children, max(level) AS deepest
              FROM node
             WHERE parent IS NOT NULL
             GROUP BY parent) f
      JOIN node n ON n.id = f.parent
),
walk (id, entities, parents, deepest) AS (
    SELECT above, sum(children)::bigint, count(*), max(deepest)
      FROM family
     WHERE above IS NOT NULL
     GROUP BY above
    UNION ALL
    SELECT above, sum(entities)::bigint, sum(parents)::bigint, max(deepest)
      FROM (SELECT f.above, w.entities, w.parents, w.deepest
              FROM walk w
              JOIN family f ON f.id = w.id
             WHERE f.above IS NOT NULL) s
     GROUP BY above
),
tally AS (
    SELECT id, sum(direct)::bigint AS direct, sum(entities)::bigint AS entities,
           sum(parents)::bigint AS parents, max(deepest) AS deepest
      FROM (SELECT id, children AS direct, children AS entities, 0 AS parents, deepest
              FROM family
            UNION ALL
            SELECT id, 0, entities, parents, deepest FROM walk) s
     GROUP BY id
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
  LEFT JOIN tally t ON t.id = e.{id}
{data}
