"""The whole fleet, looked at from one process.

Reading order: `picture` (what a look shows), `glance` and `onlooker` (how it is taken); `news`
(what happened, as a value), `cursor` (how far somebody has heard), `going` (what goes on
elsewhere), `ledger` (what the database says), `missed` (to whoever comes back), `feed` (who tells).
"""
