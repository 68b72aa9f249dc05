-- From the table itself: what the view does not hold yet. Equality with each path above is what
-- any index on the path serves, a btree as well as GiST; without one the table is read once for all
-- who are asked for. They are numbered, because not every name can be grouped by.
WITH asked AS MATERIALIZED (
    SELECT row_number() OVER () AS number, e.{id} AS id, e.{path} AS path, {entity_name} AS name
      FROM {table} e
     WHERE e.{id} = ANY (%s)
),
above AS (
    SELECT q.number,
           array_agg(a.{id} ORDER BY l.level, a.{id}) AS ids,
           array_agg(a.{path}::text ORDER BY l.level, a.{id}) AS paths,
           array_agg({ancestor_name} ORDER BY l.level, a.{id}) AS names
      FROM asked q
     CROSS JOIN LATERAL unnest(string_to_array(q.path::text, '.')) WITH ORDINALITY l (label, level)
      JOIN {table} a ON a.{path} OPERATOR({ltree}.=) {ltree}.subpath(q.path, 0, l.level::integer)
     WHERE l.level < {ltree}.nlevel(q.path)
     GROUP BY q.number
)
SELECT q.id, q.path::text, q.name,
       coalesce(a.ids, '{{}}'), coalesce(a.paths, '{{}}'), coalesce(a.names, '{{}}')
  FROM asked q
  LEFT JOIN above a ON a.number = q.number
