WITH RECURSIVE
-- The only lines that know the names of the host's table.
entity AS NOT MATERIALIZED (
    SELECT {id} AS id, {path} AS path, {name} AS name
    FROM {table}
),

-- A family: the entities whose paths differ in the last label only, and so have the same
-- ancestors. Its path is what they share. Numbered, because numbers join faster than paths;
-- OFFSET 0 keeps the planner from sorting a million paths where hashing them is faster.
family AS MATERIALIZED (
    SELECT
        row_number() OVER () AS number,
        path,
        CASE WHEN path <> '' THEN left(path, -strpos(reverse(path), '.')) END AS above
    FROM (
        SELECT path
        FROM (
            SELECT subpath(path, 0, -1)::text COLLATE "C" AS path
            FROM entity
            WHERE nlevel(path) > 0
            OFFSET 0
        ) AS member
        GROUP BY path
    ) AS shared
),

-- Its parent; of several entities with that path the one with the smallest id; id is NULL where
-- the path has no entity.
seat AS MATERIALIZED (
    SELECT DISTINCT ON (f.number) f.number, f.path, f.above, e.id, e.name
    FROM family AS f
    LEFT JOIN entity AS e ON e.path::text = f.path
    ORDER BY f.number, e.id
),

-- Gaps: the paths above a family without a parent are families as well, if they are none yet,
-- so that the way to the root is never interrupted.
gap AS MATERIALIZED (
    SELECT
        -row_number() OVER () AS number,
        path,
        CASE WHEN path <> '' THEN left(path, -strpos(reverse(path), '.')) END AS above
    FROM (
        SELECT DISTINCT subpath(s.path::ltree, 0, l.level::integer - 1)::text COLLATE "C" AS path
        FROM seat AS s
        CROSS JOIN LATERAL unnest(string_to_array(s.path, '.')) WITH ORDINALITY AS l (label, level)
        WHERE s.id IS NULL
    ) AS prefix
    WHERE NOT EXISTS (SELECT FROM family AS f WHERE f.path = prefix.path)
),

place AS MATERIALIZED (
    SELECT p.number, coalesce(f.number, g.number, 0) AS above, p.path, p.id, p.name
    FROM (
        SELECT number, path, above, id, name FROM seat
        UNION ALL
        (
            SELECT DISTINCT ON (g.number) g.number, g.path, g.above, e.id, e.name
            FROM gap AS g
            LEFT JOIN entity AS e ON e.path::text = g.path
            ORDER BY g.number, e.id
        )
    ) AS p
    LEFT JOIN family AS f ON f.path = p.above
    LEFT JOIN gap AS g ON g.path = p.above
),

-- From the top (number 0, which is nobody) downwards, one level a step. The first row has no
-- entity; its aggregates give NULLs of the right types, and NULL || x is an array of x.
trail (number, path, ids, paths, names) AS (
    SELECT
        0::bigint,
        min(path::text COLLATE "C"),
        array_agg(id),
        array_agg(path::text COLLATE "C"),
        array_agg(name)
    FROM entity
    WHERE false
    UNION ALL
    SELECT
        p.number,
        p.path,
        CASE WHEN p.id IS NULL THEN t.ids ELSE t.ids || p.id END,
        CASE WHEN p.id IS NULL THEN t.paths ELSE t.paths || p.path END,
        CASE WHEN p.id IS NULL THEN t.names ELSE t.names || p.name END
    FROM trail AS t
    JOIN place AS p ON p.above = t.number
)

SELECT
    e.id AS entity_id,
    e.path AS entity_path,
    e.name AS entity_name,
    coalesce(t.ids, '{{}}') AS ancestor_ids,
    coalesce(t.paths, '{{}}') AS ancestor_paths,
    coalesce(t.names, '{{}}') AS ancestor_names,
    nlevel(e.path) - 1 AS depth
FROM entity AS e
LEFT JOIN trail AS t
    ON t.path = CASE WHEN nlevel(e.path) > 0 THEN subpath(e.path, 0, -1)::text END
