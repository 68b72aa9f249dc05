-- From the table itself, by the path: what the view does not hold yet. A parent across a gap is the
-- nearest entity above, as in the view.
SELECT e.{id},
       (SELECT count(*) FROM {table} c
         WHERE c.{path} OPERATOR({ltree}.<@) e.{path} AND c.{path} <> e.{path}
           AND NOT EXISTS (SELECT FROM {table} m
                            WHERE m.{path} OPERATOR({ltree}.@>) c.{path} AND m.{path} <> c.{path}
                              AND m.{path} OPERATOR({ltree}.<@) e.{path} AND m.{path} <> e.{path})),
       d.entities, d.leaves, coalesce(d.deepest - {ltree}.nlevel(e.{path}), 0),
       {ltree}.nlevel(e.{path}) - 1, {type}
  FROM {table} e
  LEFT JOIN LATERAL (
       SELECT count(*) AS entities, max({ltree}.nlevel(c.{path})) AS deepest,
              count(*) FILTER (WHERE NOT EXISTS (
                  SELECT FROM {table} b
                   WHERE b.{path} OPERATOR({ltree}.<@) c.{path} AND b.{path} <> c.{path})) AS leaves
         FROM {table} c
        WHERE c.{path} OPERATOR({ltree}.<@) e.{path} AND c.{path} <> e.{path}) d ON true
 WHERE e.{id} = ANY (%s)
