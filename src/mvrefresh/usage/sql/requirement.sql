-- Ends the script here where the library's tables and functions are not installed (version 6 or
-- later): `mvrefresh schema --apply`, or the script of `mvrefresh schema --sql`.
SELECT {refresh_view}::pg_catalog.regproc
