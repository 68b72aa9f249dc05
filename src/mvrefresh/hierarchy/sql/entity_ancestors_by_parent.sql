-- One row an entity, with its ancestors from the root down, by the parent's id. A parent that
-- does not lie above its child by the path is no parent: that also ends circles.
CREATE MATERIALIZED VIEW {view} AS
WITH RECURSIVE
node AS MATERIALIZED (
    SELECT e.{id} AS id, p.{id} AS parent, e.{path} AS path, {entity_name} AS name
      FROM {table} e
      LEFT JOIN {table} p
        ON p.{id} = e.{parent} AND {ltree}.nlevel(p.{path}) < {ltree}.nlevel(e.{path})
),
family AS MATERIALIZED (   -- numbered: numbers are small whatever the ids are
    SELECT row_number() OVER () AS number, parent AS id
      FROM (SELECT DISTINCT parent FROM node WHERE parent IS NOT NULL) f
),
place AS MATERIALIZED (
    SELECT f.number, coalesce(a.number, 0) AS above, n.id, n.path::text COLLATE "C" AS path, n.name
      FROM family f
      JOIN node n ON n.id = f.id
      LEFT JOIN family a ON a.id = n.parent
),
-- From number 0, which is nobody; its aggregates are nulls of the right types, and null || x is x.
trail (number, id, ids, paths, names) AS (
    SELECT 0::bigint, (array_agg(id))[1], array_agg(id), array_agg(path::text COLLATE "C"),
           array_agg(name)
      FROM node
     WHERE false
    UNION ALL
    SELECT p.number, p.id, t.ids || p.id, t.paths || p.path, t.names || p.name
      FROM trail t
      JOIN place p ON p.above = t.number
)
SELECT n.id AS entity_id,
       n.path AS entity_path,
       n.name AS entity_name,
       coalesce(t.ids, '{{}}') AS ancestor_ids,
       coalesce(t.paths, '{{}}') AS ancestor_paths,
       coalesce(t.names, '{{}}') AS ancestor_names,
       {ltree}.nlevel(n.path) - 1 AS depth
  FROM node n
  LEFT JOIN trail t ON t.id = n.parent
{data}
