"""From a wish to a commit. Read in this order.

`view` (what a materialized view is and can), `graph` (which reads which), `plan` (which views,
in which order, by which strategy, and why: all pure), `strategies` (the statements),
`transaction` (the one transaction of promise P1), `step` (retries, fallback, failure records),
`runner` (many steps on several connections), `report` (what came of it).

The package is not called `refresh` because `mvrefresh.refresh` is the function users call.
"""
