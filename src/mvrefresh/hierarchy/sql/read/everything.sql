-- The whole view in the order of the paths, and the tag of the same statement in a row of its own.
-- Rows: id, path, name, id of the parent, tag.
SELECT u.id, u.path::text, u.name, u.parent, u.tag
  FROM (SELECT v.entity_id AS id, v.entity_path AS path, v.entity_name AS name,
               {nearest} AS parent, NULL::text[] AS tag
          FROM {ancestors} v
        UNION ALL
        SELECT NULL, NULL, NULL, NULL,
               ARRAY[t.refresh_no::text, t.content_token::text, t.age::text]
          FROM ({tag}) t) u
 ORDER BY u.path, u.id
