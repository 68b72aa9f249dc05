-- One row an entity, with its ancestors from the root down. Every prefix of its path is looked
-- up by hash; a prefix that is no entity is a gap and just absent.
CREATE MATERIALIZED VIEW {view} AS
WITH trail AS (
    SELECT e.{id} AS id,
           array_agg(a.{id} ORDER BY k, a.{id}) AS ids,
           array_agg(a.{path}::text ORDER BY k, a.{id}) AS paths,
           array_agg({ancestor_name} ORDER BY k, a.{id}) AS names
      FROM {table} e
     CROSS JOIN LATERAL generate_series(1, {ltree}.nlevel(e.{path}) - 1) k
      JOIN {table} a ON a.{path}::text = {ltree}.subpath(e.{path}, 0, k)::text
     GROUP BY e.{id}
)
SELECT e.{id} AS entity_id,
       e.{path} AS entity_path,
       {entity_name} AS entity_name,
       coalesce(t.ids, '{{}}') AS ancestor_ids,
       coalesce(t.paths, '{{}}') AS ancestor_paths,
       coalesce(t.names, '{{}}') AS ancestor_names,
       {ltree}.nlevel(e.{path}) - 1 AS depth
  FROM {table} e
  LEFT JOIN trail t ON t.id = e.{id}
{data}
