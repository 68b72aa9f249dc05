-- One row a view: what its content is. Written only by finish_refresh, under the view's lock, in
-- the transaction of the REFRESH. That rewrites the view's row in pg_class, so the two rows have
-- the same xmin: where they differ, somebody else has refreshed the view since (or it was
-- restored from a dump), and this row speaks of content that is gone.
CREATE TABLE {schema}.state (
    view              oid PRIMARY KEY,          -- survives a rename; not regclass, which a
                                                -- dump cannot always restore
    refresh_no        bigint      NOT NULL,     -- counts contents, for people and gaps
    content_token     uuid        NOT NULL,     -- another token, other content
    content_as_of     timestamptz,              -- the moment the content stands for, and the
    content_snapshot  pg_snapshot,              -- commits it holds; null: a view it reads is
                                                -- one that was never refreshed by us
    last_started_at   timestamptz NOT NULL,
    last_finished_at  timestamptz NOT NULL,
    last_duration_ms  double precision NOT NULL,
    last_strategy     text        NOT NULL,
    last_run_id       uuid        NOT NULL      -- whose commit that was: asked after a lost COMMIT
) WITH (fillfactor = 50);                       -- every refresh updates its row: keep that HOT
