-- One row a view: what its content is. Written only by finish_refresh, under the view's lock.
CREATE TABLE {schema}.state (
    view              regclass PRIMARY KEY,     -- an oid that survives rename and dump
    refresh_no        bigint      NOT NULL,     -- counts contents, for people and gaps
    content_token     uuid        NOT NULL,     -- another token, other content
    content_as_of     timestamptz NOT NULL,     -- the moment the content stands for
    content_snapshot  pg_snapshot NOT NULL,     -- the commits it holds
    last_started_at   timestamptz NOT NULL,
    last_finished_at  timestamptz NOT NULL,
    last_duration_ms  double precision NOT NULL,
    last_strategy     text        NOT NULL,
    last_run_id       uuid        NOT NULL      -- whose commit that was: asked after a lost COMMIT
) WITH (fillfactor = 50);                       -- every refresh updates its row: keep that HOT
