-- Every materialized view, what it can and who may refresh it; one row each.
SELECT c.oid::bigint AS oid,
       n.nspname AS schema,
       c.relname AS name,
       pg_get_userbyid(c.relowner) AS owner,
       c.relispopulated AS populated,
       -- not pg_total_relation_size: it would wait for whoever refreshes the view just now
       nullif(current_setting('block_size')::bigint * c.relpages, 0)
           + current_setting('block_size')::bigint * coalesce((
           SELECT sum(ic.relpages)
             FROM pg_index i
             JOIN pg_class ic ON ic.oid = i.indexrelid
            WHERE i.indrelid = c.oid), 0) AS size_bytes,
       c.reltuples::bigint AS rows_estimate,
       -- REFRESH asks for MAINTAIN from PostgreSQL 17 on, and for ownership before.
       has_schema_privilege(n.oid, 'USAGE') AND CASE
           WHEN current_setting('server_version_num')::int >= 170000
           THEN has_table_privilege(c.oid, %(privilege)s)
           ELSE pg_has_role(c.relowner, 'USAGE')
       END AS permitted,
       coalesce((
           SELECT jsonb_agg(jsonb_build_object(
                      'name', ic.relname,
                      'columns', (
                          -- not pg_get_indexdef: it locks the view
                          SELECT coalesce(jsonb_agg(a.attname ORDER BY a.attnum), '[]')
                            FROM pg_attribute a
                           WHERE a.attrelid = i.indexrelid AND a.attnum <= i.indnkeyatts),
                      'valid', i.indisvalid,
                      'immediate', i.indimmediate,
                      'partial', i.indpred IS NOT NULL,
                      'expression', i.indexprs IS NOT NULL,
                      'btree', am.amname = 'btree') ORDER BY ic.relname)
             FROM pg_index i
             JOIN pg_class ic ON ic.oid = i.indexrelid
             JOIN pg_am am ON am.oid = ic.relam
            WHERE i.indrelid = c.oid AND i.indisunique), '[]') AS unique_indexes
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'm' AND NOT pg_is_other_temp_schema(n.oid)
