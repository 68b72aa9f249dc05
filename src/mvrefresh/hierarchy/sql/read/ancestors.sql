SELECT t.refresh_no, t.content_token, t.age,
       v.entity_id, v.entity_path::text, v.entity_name,
       v.ancestor_ids, v.ancestor_paths, v.ancestor_names
  FROM (SELECT true) one
  LEFT JOIN ({tag}) t ON true
  LEFT JOIN {ancestors} v ON v.entity_id = ANY (%s)
