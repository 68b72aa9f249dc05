-- The tag in a row of its own, so that it is not repeated in each.
SELECT t.refresh_no, t.content_token, t.age,
       NULL AS entity_id, NULL AS entity_path, NULL AS entity_name,
       NULL AS ancestor_ids, NULL AS ancestor_paths, NULL AS ancestor_names
  FROM (SELECT true) one
  LEFT JOIN ({tag}) t ON true
UNION ALL
SELECT NULL, NULL, NULL,
       v.entity_id, v.entity_path::text, v.entity_name,
       v.ancestor_ids, v.ancestor_paths, v.ancestor_names
  FROM {ancestors} v
 WHERE v.entity_id = ANY (%s)
