SELECT
    -- An entity without a path stands at no depth: -1. No NULLs in the key of the unique index:
    -- REFRESH CONCURRENTLY would take out and put in again every row that has one.
    coalesce(depth, -1) AS depth,
    coalesce(entity_type::text, '') AS entity_type,
    count(*) AS entity_count,
    count(*) FILTER (WHERE descendant_count = 0) AS leaf_count,
    (avg(direct_children) FILTER (WHERE direct_children > 0))::double precision
        AS average_fan_out,
    max(direct_children) FILTER (WHERE direct_children > 0) AS largest_fan_out
FROM {counts}
GROUP BY 1, 2
