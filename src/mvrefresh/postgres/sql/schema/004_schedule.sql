-- When each view is next due, for the whole fleet: a restart neither forgets nor floods. Apart from
-- table state, whose row must have been written by the REFRESH itself. A slot that is served moves
-- in the transaction of the refresh that serves it; one that failed moves afterwards.
CREATE TABLE {schema}.schedule (
    view             oid PRIMARY KEY,
    slot             timestamptz NOT NULL,       -- the one to be served next; before jitter
    schedule         text        NOT NULL,       -- of whoever moved it last: "every 300 s"
    registered_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_started_at  timestamptz,                -- of the last scheduled run, whatever came of it
    failures         integer     NOT NULL DEFAULT 0,  -- of scheduled runs, since the last success
    suspended_at     timestamptz,                -- too many of them: left alone from then on
    last_error       text
) WITH (fillfactor = 50);

-- Any success through the library resumes, on schedule, by force or by hand.
CREATE OR REPLACE FUNCTION {schema}.resume_schedule() RETURNS trigger
LANGUAGE plpgsql AS $function$
BEGIN
    UPDATE {schema}.schedule s SET failures = 0, suspended_at = NULL, last_error = NULL
     WHERE s.view = NEW.view AND (s.failures > 0 OR s.suspended_at IS NOT NULL);
    RETURN NULL;
END
$function$;
CREATE TRIGGER resume_schedule AFTER INSERT OR UPDATE ON {schema}.state
    FOR EACH ROW EXECUTE FUNCTION {schema}.resume_schedule();
