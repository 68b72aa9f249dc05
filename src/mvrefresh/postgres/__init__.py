"""Everything that speaks SQL about views in general. Read in this order.

`database` (connections: the pool's, and those of refreshes in `direct`; `health` asks how it
is), `faults` (what an SQLSTATE means), `catalog` (the views and what reads what), `schema` (the
library's own tables, versioned), `locks` and `state` (who may refresh, and what the content is),
`notify` (the channel). Statements of more than a line are in `sql/`.
"""
