"""The demonstration, `mvrefresh demo`: a real PostgreSQL, real data, all five views, in seconds.

Needs the extra `demo`. Reading order: `command` (the command line), `servers` (a PostgreSQL from
a wheel, or a new database on a server of yours), `world` and `events` (the data), `stage` (what
the chapters share), `chapters` (one function a chapter; a new feature adds its own), `show`
(plays them).
"""
