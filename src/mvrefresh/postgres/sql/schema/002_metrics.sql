-- History. A table of this name and the first six columns may be there already: it is kept.
CREATE TABLE IF NOT EXISTS {metrics}.refresh_metrics (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    view_name           text NOT NULL,
    refresh_duration_ms double precision NOT NULL,
    success             boolean,
    created_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    error_message       text
);
ALTER TABLE {metrics}.refresh_metrics
    ALTER COLUMN success DROP NOT NULL,         -- null: skipped, nothing ran
    ADD COLUMN IF NOT EXISTS status        text,
    ADD COLUMN IF NOT EXISTS strategy      text,
    ADD COLUMN IF NOT EXISTS reason        text,
    ADD COLUMN IF NOT EXISTS trigger       text,
    ADD COLUMN IF NOT EXISTS run_id        uuid,
    ADD COLUMN IF NOT EXISTS refresh_no    bigint,
    ADD COLUMN IF NOT EXISTS host          text,
    ADD COLUMN IF NOT EXISTS rows_inserted bigint,
    ADD COLUMN IF NOT EXISTS rows_deleted  bigint;
CREATE INDEX IF NOT EXISTS refresh_metrics_view_recent
    ON {metrics}.refresh_metrics (view_name, created_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS refresh_metrics_recent
    ON {metrics}.refresh_metrics (created_at DESC, id DESC);
