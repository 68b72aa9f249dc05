SELECT t.refresh_no, t.content_token, t.age,
       v.entity_id, v.direct_children, v.descendant_count, v.leaf_descendants, v.height, v.depth,
       v.entity_type
  FROM (SELECT true) one
  LEFT JOIN ({tag}) t ON true
  LEFT JOIN {counts} v ON v.entity_id = ANY (%s)
