-- A table of this name and these columns is kept as it is, with its rows.
CREATE TABLE IF NOT EXISTS {log} (
    id            uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    view_name     text NOT NULL,
    refreshed_at  timestamptz NOT NULL DEFAULT now(),
    success       boolean NOT NULL DEFAULT true,
    error_message text
)
