WITH RECURSIVE
-- The only lines that know the names of the host's table.
entity AS NOT MATERIALIZED (
    SELECT {id} AS id, {parent} AS parent, {path} AS path, {name} AS name
    FROM {table}
),

-- Who is whose parent. A parent's path is shorter than its child's: a link that contradicts the
-- paths counts as none, and so parents in a circle cannot make this query run for ever.
link AS MATERIALIZED (
    SELECT e.id, p.id AS parent, e.path, e.name
    FROM entity AS e
    LEFT JOIN entity AS p
        ON p.id = e.parent AND nlevel(p.path) < coalesce(nlevel(e.path), 65536)
),

-- The entities that have children; numbered, because numbers are small whatever the ids are.
family AS MATERIALIZED (
    SELECT row_number() OVER () AS number, parent AS id
    FROM (SELECT DISTINCT parent FROM link WHERE parent IS NOT NULL) AS shared
),

place AS MATERIALIZED (
    SELECT f.number, coalesce(a.number, 0) AS above, l.id, l.path::text COLLATE "C" AS path, l.name
    FROM family AS f
    JOIN link AS l ON l.id = f.id
    LEFT JOIN family AS a ON a.id = l.parent
),

-- From the top (number 0, which is nobody) downwards, one level a step. The first row has no
-- entity; its aggregates give NULLs of the right types, and NULL || x is an array of x.
trail (number, id, ids, paths, names) AS (
    SELECT
        0::bigint,
        (array_agg(id))[1],
        array_agg(id),
        array_agg(path::text COLLATE "C"),
        array_agg(name)
    FROM entity
    WHERE false
    UNION ALL
    SELECT p.number, p.id, t.ids || p.id, t.paths || p.path, t.names || p.name
    FROM trail AS t
    JOIN place AS p ON p.above = t.number
)

SELECT
    l.id AS entity_id,
    l.path AS entity_path,
    l.name AS entity_name,
    coalesce(t.ids, '{{}}') AS ancestor_ids,
    coalesce(t.paths, '{{}}') AS ancestor_paths,
    coalesce(t.names, '{{}}') AS ancestor_names,
    nlevel(l.path) - 1 AS depth
FROM link AS l
LEFT JOIN trail AS t ON t.id = l.parent
