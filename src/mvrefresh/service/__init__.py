"""Refreshing on schedule and by force, once in a fleet.

Reading order: `roster` (which views, by which schedule), `dispatcher` (one look at what is due, and
what is done about it), `forcing` (callers share refreshes), `tally` (what was done), `loop` (the
thread), `health` and `status` (what to tell), `service` (the face, and its states).
"""
