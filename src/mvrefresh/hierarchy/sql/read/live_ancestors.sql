-- From the table itself: what the view does not hold yet.
SELECT e.{id}, e.{path}::text, {entity_name},
       coalesce(a.ids, '{{}}'), coalesce(a.paths, '{{}}'), coalesce(a.names, '{{}}')
  FROM {table} e
  LEFT JOIN LATERAL (
       SELECT array_agg(a.{id} ORDER BY {ltree}.nlevel(a.{path}), a.{id}) AS ids,
              array_agg(a.{path}::text ORDER BY {ltree}.nlevel(a.{path}), a.{id}) AS paths,
              array_agg({ancestor_name} ORDER BY {ltree}.nlevel(a.{path}), a.{id}) AS names
         FROM {table} a
        WHERE a.{path} OPERATOR({ltree}.@>) e.{path} AND a.{path} <> e.{path}) a ON true
 WHERE e.{id} = ANY (%s)
