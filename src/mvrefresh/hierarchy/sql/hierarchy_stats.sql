-- Figures per depth and type, over the view of counts: it is refreshed after that one.
CREATE MATERIALIZED VIEW {view} AS
SELECT depth,
       entity_type,
       count(*) AS entity_count,
       count(*) FILTER (WHERE direct_children = 0) AS leaf_count,
       avg(direct_children) FILTER (WHERE direct_children > 0)::float8 AS average_fan_out,
       max(direct_children) AS largest_fan_out
  FROM {counts}
 WHERE depth IS NOT NULL   -- an entity without a path is nowhere
 GROUP BY depth, entity_type
{data}
