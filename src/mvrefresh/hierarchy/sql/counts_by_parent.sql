WITH RECURSIVE
-- The only lines that know the names of the host's table.
entity AS NOT MATERIALIZED (
    SELECT {id} AS id, {parent} AS parent, {path} AS path, {entity_type} AS entity_type
    FROM {table}
),

-- Who is whose parent. A parent's path is shorter than its child's: a link that contradicts the
-- paths counts as none, and so parents in a circle cannot make this query run for ever.
link AS MATERIALIZED (
    SELECT e.id, p.id AS parent, nlevel(e.path) AS level
    FROM entity AS e
    LEFT JOIN entity AS p
        ON p.id = e.parent AND nlevel(p.path) < coalesce(nlevel(e.path), 65536)
),

-- The entities that have children, each with its own parent.
branch AS MATERIALIZED (
    SELECT l.id, l.parent, f.children, f.deepest
    FROM (
        SELECT parent, count(*) AS children, max(level) AS deepest
        FROM link
        WHERE parent IS NOT NULL
        GROUP BY parent
    ) AS f
    JOIN link AS l ON l.id = f.parent
),

-- Every branch's sums climb to the root. Each step goes to the parents and adds up what arrives
-- at the same one, so that few rows go on. parents counts the entities that have something below.
climb (id, children, parents, deepest) AS (
    SELECT parent, sum(children)::bigint, count(*), max(deepest)
    FROM branch
    WHERE parent IS NOT NULL
    GROUP BY parent
    UNION ALL
    SELECT parent, sum(children)::bigint, sum(parents)::bigint, max(deepest)
    FROM (
        SELECT b.parent, c.children, c.parents, c.deepest
        FROM climb AS c
        JOIN branch AS b ON b.id = c.id
        WHERE b.parent IS NOT NULL
    ) AS step
    GROUP BY parent
),

tally AS (
    SELECT
        id,
        sum(direct)::bigint AS direct_children,
        sum(children)::bigint AS descendants,
        sum(parents)::bigint AS parents,
        max(deepest) AS deepest
    FROM (
        SELECT id, children AS direct, children, 0 AS parents, deepest FROM branch
        UNION ALL
        SELECT id, 0, children, parents, deepest FROM climb
    ) AS arrived
    GROUP BY id
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
LEFT JOIN tally AS t ON t.id = e.id
