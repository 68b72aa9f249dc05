WITH RECURSIVE
-- The only lines that know the names of the host's table.
entity AS NOT MATERIALIZED (
    SELECT {id} AS id, {path} AS path, {entity_type} AS entity_type
    FROM {table}
),

-- A family: the entities whose paths differ in the last label only. Its path is what they share.
-- OFFSET 0 keeps the planner from sorting a million paths where hashing them is faster.
family AS MATERIALIZED (
    SELECT path, left(path, -strpos(reverse(path), '.')) AS above, children, deepest
    FROM (
        SELECT path, count(*) AS children, max(level) AS deepest
        FROM (
            SELECT subpath(path, 0, -1)::text COLLATE "C" AS path, nlevel(path) AS level
            FROM entity
            WHERE nlevel(path) > 0
            OFFSET 0
        ) AS member
        GROUP BY path
    ) AS counted
),

-- The parents: every entity that has a family's path; id is NULL where the path has no entity.
seat AS MATERIALIZED (
    SELECT f.path, f.above, f.children, e.id
    FROM family AS f
    LEFT JOIN entity AS e ON e.path::text = f.path
),

-- Gaps: the paths above a family that has no parent ...
gap AS MATERIALIZED (
    SELECT
        s.path AS missing,
        s.children,
        l.level,
        subpath(s.path::ltree, 0, l.level::integer - 1)::text COLLATE "C" AS path
    FROM seat AS s
    CROSS JOIN LATERAL unnest(string_to_array(s.path, '.')) WITH ORDINALITY AS l (label, level)
    WHERE s.id IS NULL
),

-- ... those of them that have an entity ...
bridge AS MATERIALIZED (
    SELECT g.path, count(*) AS entities
    FROM (SELECT DISTINCT path FROM gap) AS g
    JOIN entity AS e ON e.path::text = g.path
    GROUP BY g.path
),

-- ... and the nearest of these, which is the parent in place of the missing one.
adopted AS MATERIALIZED (
    SELECT DISTINCT ON (g.missing) g.path, g.children
    FROM gap AS g
    JOIN bridge AS b ON b.path = g.path
    ORDER BY g.missing, g.level DESC
),

-- Every family's sums climb to the root. Each step takes one label off and adds up what arrives
-- at the same path, so that few rows go on; no join is needed. parents counts the entities that
-- have something below them.
climb (path, children, parents, deepest) AS (
    SELECT above, sum(children)::bigint, sum(parents)::bigint, max(deepest)
    FROM (
        SELECT above, children, 0 AS parents, deepest
        FROM family
        WHERE path <> ''
        UNION ALL
        SELECT above, 0, 1, NULL
        FROM seat
        WHERE path <> '' AND id IS NOT NULL
        UNION ALL
        SELECT left(b.path, -strpos(reverse(b.path), '.')), 0, b.entities, NULL
        FROM bridge AS b
        WHERE b.path <> '' AND NOT EXISTS (SELECT FROM family AS f WHERE f.path = b.path)
    ) AS start
    GROUP BY above
    UNION ALL
    SELECT above, sum(children)::bigint, sum(parents)::bigint, max(deepest)
    FROM (
        SELECT left(path, -strpos(reverse(path), '.')) AS above, children, parents, deepest
        FROM climb
        WHERE path <> ''
    ) AS step
    GROUP BY above
),

tally AS (
    SELECT
        path,
        sum(direct)::bigint AS direct_children,
        sum(children)::bigint AS descendants,
        sum(parents)::bigint AS parents,
        max(deepest) AS deepest
    FROM (
        SELECT path, children AS direct, children, 0 AS parents, deepest FROM family
        UNION ALL
        SELECT path, children, 0, 0, NULL FROM adopted
        UNION ALL
        SELECT path, 0, children, parents, deepest FROM climb
    ) AS arrived
    GROUP BY path
)

SELECT
    e.id AS entity_id,
    e.path AS entity_path,
    e.entity_type,
    nlevel(e.path) - 1 AS depth,
    coalesce(t.direct_children, 0) AS direct_children,
    coalesce(t.descendants, 0) AS descendant_count,
    coalesce(t.descendants - t.parents, 0) AS leaf_descendants,
    greatest(t.deepest - nlevel(e.path), 0) AS height
FROM entity AS e
LEFT JOIN tally AS t ON t.path = e.path::text
