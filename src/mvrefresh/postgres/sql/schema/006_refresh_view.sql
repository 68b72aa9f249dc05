-- Refreshes from outside the library: the same lock, state, record and notification for whoever has
-- SQL alone, in refresh_view, and for several views in refresh_views. What the library decides in
-- Python is decided here by the same rules, and in the same words.

-- A name as SQL writes it; quotes only where they are needed (not quote_ident, which also quotes
-- keywords: every record has to have the same spelling).
CREATE OR REPLACE FUNCTION {schema}.quoted(p_name name) RETURNS text
LANGUAGE sql IMMUTABLE AS $function$
    SELECT CASE WHEN p_name ~ '^[a-z_][a-z0-9_$]*$' THEN p_name::text
                ELSE '"' || pg_catalog.replace(p_name::text, '"', '""') || '"' END
$function$;

-- The name under which reports, history and notifications know a view.
CREATE OR REPLACE FUNCTION {schema}.label_of(p_view oid) RETURNS text
LANGUAGE sql STABLE AS $function$
    SELECT CASE WHEN n.nspname = 'public' THEN '' ELSE {schema}.quoted(n.nspname) || '.' END
           || {schema}.quoted(c.relname)
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = p_view
$function$;

-- The materialized views that a view reads: directly, through plain views, partitions and functions
-- with an SQL body; with p_deep also those that they read. From this view on and by the indexes of
-- the catalog, where the library, which wants to know it of all views, reads every edge once.
CREATE OR REPLACE FUNCTION {schema}.views_read(p_view oid, p_deep boolean DEFAULT false) RETURNS SETOF oid
LANGUAGE sql STABLE AS $function$
    WITH RECURSIVE reached (class, id, kind) AS (
        SELECT 'pg_catalog.pg_class'::regclass::oid, p_view, ''
        UNION
        SELECT edge.class, edge.id, c.relkind::text
          FROM reached r
         CROSS JOIN LATERAL (
               SELECT d.refclassid AS class, d.refobjid AS id
                 FROM pg_catalog.pg_rewrite w
                 JOIN pg_catalog.pg_depend d
                   ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = w.oid
                WHERE r.class = 'pg_catalog.pg_class'::regclass AND w.ev_class = r.id
                UNION ALL
               SELECT d.refclassid, d.refobjid
                 FROM pg_catalog.pg_depend d
                WHERE r.class = 'pg_catalog.pg_proc'::regclass AND d.classid = r.class
                  AND d.objid = r.id AND d.deptype = 'n'
                UNION ALL
               SELECT r.class, i.inhrelid
                 FROM pg_catalog.pg_inherits i
                WHERE r.class = 'pg_catalog.pg_class'::regclass AND i.inhparent = r.id) edge
          LEFT JOIN pg_catalog.pg_class c
            ON edge.class = 'pg_catalog.pg_class'::regclass AND c.oid = edge.id
         WHERE r.id >= 16384 AND (p_deep OR r.kind IS DISTINCT FROM 'm')
           AND (edge.class = 'pg_catalog.pg_proc'::regclass
                OR c.relkind IN ('r', 'v', 'm', 'p', 'f') AND c.oid <> p_view)
    )
    SELECT r.id FROM reached r WHERE r.kind = 'm'
$function$;

-- By which method, and why, in the words of the library's plan. No method: blocking was ruled out.
CREATE OR REPLACE FUNCTION {schema}.method_of(
    p_view oid, p_method text, p_fallback text, OUT strategy text, OUT reason text
) LANGUAGE plpgsql STABLE AS $function$
DECLARE
    v_populated boolean := (SELECT c.relispopulated FROM pg_catalog.pg_class c WHERE c.oid = p_view);
    v_index     record;
    v_misses    text;
    v_obstacle  text;
BEGIN
    IF p_method = 'regular' THEN
        strategy := 'regular';
        reason := 'asked for; ' || CASE WHEN v_populated THEN 'readers wait while it runs'
                                        ELSE 'it is not populated yet' END;
        RETURN;
    END IF;
    FOR v_index IN  -- the conditions are those of is_usable_unique_index() in PostgreSQL's matview.c
        SELECT x.relname AS name,
               CASE WHEN NOT i.indisvalid THEN 'is invalid (REINDEX it)'
                    WHEN i.indpred IS NOT NULL THEN 'is partial (it has a WHERE)'
                    WHEN i.indexprs IS NOT NULL THEN 'is on an expression, not on columns alone'
                    WHEN NOT i.indimmediate THEN 'is deferrable'
                    WHEN m.amname <> 'btree' THEN 'is not a btree' END AS obstacle,
               (SELECT pg_catalog.string_agg(a.attname, ', ' ORDER BY a.attnum)
                  FROM pg_catalog.pg_attribute a
                 WHERE a.attrelid = x.oid AND a.attnum <= i.indnkeyatts) AS columns
          FROM pg_catalog.pg_index i
          JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
          JOIN pg_catalog.pg_am m ON m.oid = x.relam
         WHERE i.indrelid = p_view AND i.indisunique AND v_populated
         ORDER BY x.relname
    LOOP
        IF v_index.obstacle IS NULL THEN
            strategy := 'concurrent';
            reason := 'populated, with unique index ' || v_index.name || ' (' || v_index.columns || ')';
            RETURN;
        END IF;
        v_misses := pg_catalog.concat_ws(
            '; ', v_misses, {schema}.quoted(v_index.name) || ' ' || v_index.obstacle);
    END LOOP;
    v_obstacle := CASE WHEN NOT v_populated THEN 'it is not populated yet'
                       WHEN v_misses IS NULL THEN 'it has no unique index'
                       ELSE 'none of its unique indexes is usable: ' || v_misses END;
    IF NOT v_populated THEN  -- nobody can read it, so there is nobody to block
        strategy := 'regular';
        reason := v_obstacle || ', so there are no readers to block';
    ELSIF p_fallback = 'never' THEN
        reason := 'CONCURRENTLY is impossible, ' || v_obstacle || ', and blocking was ruled out';
    ELSE
        strategy := 'regular';
        reason := v_obstacle || '; readers wait while it runs';
    END IF;
END
$function$;

-- Raises what is wrong with a call before anything is touched, and says which view is meant.
CREATE OR REPLACE FUNCTION {schema}.check_refresh(
    p_view oid, p_method text, p_fallback text, p_lock_timeout interval, p_wait_timeout interval
) RETURNS text LANGUAGE plpgsql STABLE AS $function$
DECLARE
    v_view    record;
    v_label   text := {schema}.label_of(p_view);
    v_newer   boolean := pg_catalog.current_setting('server_version_num')::int >= 170000;
    v_missing text;
BEGIN
    IF pg_catalog.current_setting('transaction_isolation')
       NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_transaction_state',
            MESSAGE = 'a refresh needs READ COMMITTED, and this transaction is '
                || pg_catalog.upper(pg_catalog.current_setting('transaction_isolation')),
            DETAIL = 'It would rebuild content from before it waited for its lock.',
            HINT = 'Begin it with BEGIN ISOLATION LEVEL READ COMMITTED.';
    ELSIF pg_catalog.current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction',
            MESSAGE = 'a refresh writes, and this transaction is read-only',
            HINT = CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'This is a standby: ask the primary.'
                        ELSE 'Begin it with BEGIN READ WRITE.' END;
    ELSIF p_method IS NULL OR p_method NOT IN ('auto', 'concurrent', 'regular') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'p_method '
            || pg_catalog.quote_nullable(p_method) || ' is none of auto, concurrent, regular';
    ELSIF p_fallback IS NULL OR p_fallback NOT IN ('regular', 'never') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'p_fallback '
            || pg_catalog.quote_nullable(p_fallback) || ' is none of regular, never';
    ELSIF p_lock_timeout IS NULL OR least(p_lock_timeout, p_wait_timeout) < '1 ms'::interval THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'p_lock_timeout or p_wait_timeout is less than a millisecond',
            HINT = 'Without a limit is p_wait_timeout => NULL; the other always has one.';
    END IF;

    SELECT c.relkind, pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE') AS reachable,
           CASE WHEN v_newer
                THEN pg_catalog.has_table_privilege(
                         c.oid, CASE WHEN v_newer THEN 'MAINTAIN' ELSE 'SELECT' END)
                ELSE pg_catalog.pg_has_role(c.relowner, 'USAGE') END AS permitted
      INTO v_view FROM pg_catalog.pg_class c WHERE c.oid = p_view;
    IF v_label IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table',
            MESSAGE = coalesce('no relation has the oid ' || p_view, 'p_view is null');
    ELSIF v_view.relkind <> 'm' THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
            MESSAGE = v_label || ' is not a materialized view',
            HINT = 'Only materialized views can be refreshed; pg_matviews shows those of this database.';
    END IF;

    SELECT pg_catalog.string_agg(needed.privilege || ' on ' || needed.relation, ', ')
      INTO v_missing
      FROM (VALUES ($name${schema}.state$name$, 'SELECT'), ($name${schema}.state$name$, 'INSERT'),
                   ($name${schema}.state$name$, 'UPDATE'), ($name${schema}.schedule$name$, 'SELECT'),
                   ($name${schema}.schedule$name$, 'UPDATE'),
                   ($name${metrics}.refresh_metrics$name$, 'SELECT'),
                   ($name${metrics}.refresh_metrics$name$, 'INSERT')) needed (relation, privilege)
     WHERE NOT pg_catalog.has_table_privilege(needed.relation, needed.privilege);
    IF v_missing IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = 'role ' || current_user || ' may not write what a refresh records',
            DETAIL = 'It lacks ' || v_missing || '.', HINT = 'GRANT it.';
    ELSIF NOT (v_view.permitted AND v_view.reachable) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = 'role ' || current_user || ' may not refresh ' || v_label,
            HINT = 'REFRESH needs USAGE on the schema, and the view''s owner or a member of that role;'
                ' from PostgreSQL 17 GRANT MAINTAIN ON the view is enough.';
    END IF;
    RETURN v_label;
END
$function$;

-- The record of what was not refreshed. One that cannot be written is a warning, and costs no more.
CREATE OR REPLACE FUNCTION {schema}.record_unrefreshed(
    p_label text, p_status text, p_strategy text, p_reason text, p_duration_ms double precision,
    p_error text, p_trigger text, p_run_id uuid
) RETURNS bigint LANGUAGE plpgsql SET lock_timeout TO '1s' AS $function$
DECLARE
    v_id bigint;
BEGIN
    INSERT INTO {metrics}.refresh_metrics AS m (
        view_name, refresh_duration_ms, success, created_at, error_message, status, strategy,
        reason, trigger, run_id, host)
    VALUES (
        p_label, p_duration_ms, CASE p_status WHEN 'failed' THEN false END,
        pg_catalog.clock_timestamp(), p_error, p_status, p_strategy, p_reason, p_trigger, p_run_id,
        pg_catalog.host(pg_catalog.inet_client_addr()))
    RETURNING m.id INTO v_id;
    RETURN v_id;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING USING MESSAGE = 'mvrefresh: the record of ' || p_label || ' is lost: ' || SQLERRM;
    RETURN NULL;
END
$function$;

-- Refreshes a view in the caller's transaction: in the steps of the library's own, which
-- docs/explanation/one-transaction.md explains.
--
-- A failure is recorded and returned; what was done is rolled back to before it, the lock as well. A
-- cancel (57014, as from statement_timeout) is no failure of the view, and ends the statement.
-- The settings stand in the head, so that they are the caller's again however this ends.
CREATE OR REPLACE FUNCTION {schema}.refresh_view(
    p_view         regclass,
    p_method       text     DEFAULT 'auto',
    p_fallback     text     DEFAULT 'regular',
    p_trigger      text     DEFAULT 'sql',
    p_lock_timeout interval DEFAULT '5 seconds',
    p_wait_timeout interval DEFAULT '10 minutes',
    p_run_id       uuid     DEFAULT NULL,
    OUT view_name text, OUT status text, OUT strategy text, OUT reason text,
    OUT refresh_no bigint, OUT content_token uuid, OUT content_as_of timestamptz,
    OUT content_changed boolean, OUT rows_inserted bigint, OUT rows_deleted bigint,
    OUT duration_ms double precision, OUT error_message text,
    OUT run_id uuid, OUT record_id bigint
) LANGUAGE plpgsql
SET lock_timeout TO 0
SET quote_all_identifiers TO off  -- REFRESH CONCURRENTLY cannot bear it
AS $function$
#variable_conflict use_column
DECLARE
    v_gone     CONSTANT refcursor := 'mvrefresh_gone';
    v_view     CONSTANT oid := p_view;
    v_reads    oid[];
    v_look     record;
    v_snapshot pg_snapshot;
    v_again    record;
    v_began    timestamptz;
    v_locked   boolean;
    v_lost     text;
    v_state    text;
    v_message  text;
    v_detail   text;
    v_fix      text;
BEGIN
    view_name := {schema}.check_refresh(
        v_view, p_method, p_fallback, p_lock_timeout, p_wait_timeout);
    run_id := coalesce(p_run_id, pg_catalog.gen_random_uuid());
    FOR v_attempt IN 1..2 LOOP
        v_began := pg_catalog.clock_timestamp();
        v_locked := false;
        strategy := NULL;
        BEGIN
            PERFORM pg_catalog.set_config('lock_timeout', coalesce(
                (EXTRACT(epoch FROM p_wait_timeout) * 1000)::bigint, 0)::text, true);
            -- "mvrf", and the oid as a signed number, as the library has them
            PERFORM pg_catalog.pg_advisory_xact_lock(1836479078, v_view::bigint::bit(32)::int);
            v_locked := true;
            PERFORM pg_catalog.set_config('lock_timeout',
                (EXTRACT(epoch FROM p_lock_timeout) * 1000)::bigint::text, true);
            -- A statement of its own each: they see what the former holder of the lock committed.
            PERFORM FROM {schema}.state s WHERE s.view = v_view FOR NO KEY UPDATE;
            v_reads := ARRAY(SELECT {schema}.views_read(v_view));
            SELECT n.nspname AS schema, c.relname AS name,
                   pg_catalog.clock_timestamp() AS started,
                   pg_catalog.pg_current_snapshot() AS snapshot,
                   pg_catalog.pg_current_xact_id_if_assigned() AS own,
                   pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid) AS inserted,
                   pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid) AS deleted,
                   coalesce((SELECT s.xmin = c.xmin FROM {schema}.state s WHERE s.view = c.oid),
                            false) AS known,
                   (SELECT pg_catalog.count(*)
                      FROM {schema}.state s
                      JOIN pg_catalog.pg_class r ON r.oid = s.view AND r.xmin = s.xmin
                     WHERE s.view = ANY (v_reads)) = pg_catalog.cardinality(v_reads) AS all_known
              INTO v_look
              FROM pg_catalog.pg_class c
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = v_view;
            IF NOT FOUND THEN
                RAISE undefined_table;
            END IF;
            view_name := {schema}.label_of(v_view);
            content_as_of := NULL;
            v_snapshot := NULL;
            IF v_reads = '{{}}' THEN
                content_as_of := v_look.started;
                -- A snapshot shows its own transaction, which may go on and write what this content
                -- does not hold: here it counts as one in progress.
                v_snapshot := pg_catalog.concat_ws(':',
                    pg_catalog.pg_snapshot_xmin(v_look.snapshot),
                    pg_catalog.pg_snapshot_xmax(v_look.snapshot),
                    (SELECT coalesce(pg_catalog.string_agg(x.xid::text, ',' ORDER BY x.xid), '')
                       FROM (SELECT pg_catalog.pg_snapshot_xip(v_look.snapshot)
                              UNION
                             SELECT v_look.own
                              WHERE v_look.own < pg_catalog.pg_snapshot_xmax(v_look.snapshot)
                            ) x (xid)))::pg_snapshot;
            ELSIF v_look.all_known THEN
                content_as_of := (
                    SELECT CASE WHEN pg_catalog.bool_and(s.content_as_of IS NOT NULL)
                                THEN pg_catalog.min(s.content_as_of) END
                      FROM {schema}.state s WHERE s.view = ANY (v_reads));
                -- the first by what it shows, not by a clock that may have been set
                v_snapshot := (
                    SELECT s.content_snapshot
                      FROM {schema}.state s WHERE s.view = ANY (v_reads)
                     ORDER BY pg_catalog.pg_snapshot_xmax(s.content_snapshot) NULLS FIRST,
                              (SELECT pg_catalog.count(*)
                                 FROM pg_catalog.pg_snapshot_xip(s.content_snapshot)) DESC
                     LIMIT 1);
            END IF;
            SELECT m.strategy, m.reason INTO strategy, reason
              FROM {schema}.method_of(v_view, p_method, p_fallback) m;
            IF strategy IS NULL THEN
                RAISE EXCEPTION USING ERRCODE = 'MV003', MESSAGE = reason;
            ELSIF strategy = 'concurrent' THEN  -- so that finish_refresh can name what it deletes
                OPEN v_gone NO SCROLL FOR SELECT {schema}.keys_touched(v_view, true);
            END IF;
            EXECUTE 'REFRESH MATERIALIZED VIEW '
                || CASE strategy WHEN 'concurrent' THEN 'CONCURRENTLY ' ELSE '' END
                || pg_catalog.quote_ident(v_look.schema) || '.' || pg_catalog.quote_ident(v_look.name);
            SELECT f.refresh_no, f.content_token, f.content_changed, f.rows_inserted,
                   f.rows_deleted, f.duration_ms, f.record_id, f.record_error
              INTO refresh_no, content_token, content_changed, rows_inserted,
                   rows_deleted, duration_ms, record_id, v_lost
              FROM {schema}.finish_refresh(
                       v_view, view_name, v_look.started, content_as_of, v_snapshot, v_look.known,
                       v_look.inserted, v_look.deleted, strategy, reason, p_trigger, run_id,
                       pg_catalog.host(pg_catalog.inet_client_addr()), 'best_effort',
                       -- A full queue fails the caller's COMMIT. Polls carry the news as well.
                       pg_catalog.pg_notification_queue_usage() < 0.9) f;
            IF strategy = 'concurrent' THEN
                CLOSE v_gone;
            END IF;
            status := 'succeeded';
            IF v_lost IS NOT NULL THEN
                RAISE WARNING USING MESSAGE =
                    'mvrefresh: the record of ' || view_name || ' is lost: ' || v_lost;
            END IF;
            RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS v_state = RETURNED_SQLSTATE, v_message = MESSAGE_TEXT,
                v_detail = PG_EXCEPTION_DETAIL;
        END;
        -- A second try mends what moved meanwhile: the name (REFRESH goes by it), or what the view
        -- can. A definition can raise these codes itself: only the catalog knows.
        EXIT WHEN v_state NOT IN ('MV002', '42P01', '0A000', '55000');
        SELECT m.strategy, n.nspname, c.relname INTO v_again
          FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
               {schema}.method_of(v_view, p_method, p_fallback) m
         WHERE c.oid = v_view;
        EXIT WHEN NOT FOUND OR v_state <> 'MV002'
             AND (v_again.nspname, v_again.relname) = (v_look.schema, v_look.name)
             AND v_again.strategy IS NOT DISTINCT FROM strategy;
    END LOOP;

    status := 'failed';
    content_as_of := NULL;
    duration_ms := CASE WHEN v_state = 'MV003' THEN 0
        ELSE EXTRACT(epoch FROM pg_catalog.clock_timestamp() - v_began) * 1000 END;
    v_message := pg_catalog.concat_ws(': ', v_message, nullif(v_detail, ''));
    IF NOT v_locked AND v_state = '55P03' THEN
        v_message := 'another refresh of it has not ended within ' || p_wait_timeout;
        v_fix := 'Look for the holder in pg_locks (locktype advisory), end it, or raise p_wait_timeout.';
    ELSIF {schema}.label_of(v_view) IS NULL THEN
        v_message := 'it was dropped';
        v_fix := 'If it was dropped on purpose, nothing is to be done; the next run plans without it.';
    ELSE
        v_fix := CASE
            WHEN v_state = 'MV003' THEN
                'CONCURRENTLY needs a populated view and a valid unique index on columns alone, without '
                'WHERE: create one, or allow a blocking refresh with fallback="regular".'
            WHEN v_state = '42501' THEN
                'REFRESH needs the view''s owner or a member of that role; from PostgreSQL 17 '
                'GRANT MAINTAIN ON the view is enough.'
            -- a subquery of the definition says 21000 as well, without a detail
            WHEN v_state = '23505' OR v_state = '21000' AND v_detail <> '' THEN
                'The definition yields the same key twice (or a row twice with NULLs): mend the '
                'definition, or make the unique index wider. A regular refresh would fail or hide it.'
            WHEN v_state = '55P03' THEN
                'Look for the holder in pg_locks (a long transaction that read the view, or DDL), end '
                'it, or raise lock_timeout.'
            WHEN v_state = '53100' THEN
                'A refresh needs room for a second copy of the view, and CONCURRENTLY for a third.'
            ELSE 'Run the view''s query by hand (pg_get_viewdef shows it) and mend it or its data.'
            END;
        v_message := pg_catalog.rtrim(v_message, '.')
            || CASE WHEN v_state = 'MV003' THEN '' ELSE ' [' || v_state || ']' END;
    END IF;
    error_message := view_name || ': ' || pg_catalog.replace(v_message, E'\n', ' ') || '. ' || v_fix;
    record_id := {schema}.record_unrefreshed(
        view_name, status, strategy, reason, duration_ms, error_message, p_trigger, run_id);
END
$function$;

-- Several views, each in a transaction of its own and after those of them that it reads; null is all
-- of the database. A view that reads one which was not refreshed is skipped. For CALL on its own:
-- it commits, so it cannot stand in a transaction, and says so before anything is touched.
--
-- At the end it raises if a view was not refreshed, so that a scheduler's log has it, too.
CREATE OR REPLACE PROCEDURE {schema}.refresh_views(
    p_views        regclass[] DEFAULT NULL,
    p_method       text       DEFAULT 'auto',
    p_fallback     text       DEFAULT 'regular',
    p_trigger      text       DEFAULT 'sql',
    p_lock_timeout interval   DEFAULT '5 seconds',
    p_wait_timeout interval   DEFAULT '10 minutes'
) LANGUAGE plpgsql AS $procedure$
DECLARE
    v_run    uuid := pg_catalog.gen_random_uuid();
    v_views  oid[];
    v_view   oid;
    v_label  text;
    v_error  text;
    v_broken text;
    v_missed oid[] := '{{}}';
    v_errors text[] := '{{}}';
BEGIN
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
    -- What reads another reads all that this one reads, and it: so it reads more.
    v_views := ARRAY(
        SELECT v.view
          FROM (SELECT DISTINCT u.view::oid FROM pg_catalog.unnest(p_views) u (view)
                 UNION ALL
                SELECT c.oid FROM pg_catalog.pg_class c
                 WHERE p_views IS NULL AND c.relkind = 'm'
                   AND NOT pg_catalog.pg_is_other_temp_schema(c.relnamespace)) v
         ORDER BY (SELECT pg_catalog.count(*) FROM {schema}.views_read(v.view, true)),
                  {schema}.label_of(v.view));
    FOREACH v_view IN ARRAY v_views LOOP
        PERFORM {schema}.check_refresh(
            v_view, p_method, p_fallback, p_lock_timeout, p_wait_timeout);
    END LOOP;
    FOREACH v_view IN ARRAY v_views LOOP
        v_label := {schema}.label_of(v_view);
        v_broken := (SELECT pg_catalog.string_agg({schema}.label_of(r.view), ', ' ORDER BY r.view)
                       FROM {schema}.views_read(v_view) r (view) WHERE r.view = ANY (v_missed));
        IF v_broken IS NOT NULL THEN
            v_error := v_label || ': ' || v_broken
                || ' was not refreshed. Mend the view it reads; this one was left alone.';
            PERFORM {schema}.record_unrefreshed(
                v_label, 'skipped_upstream', NULL, m.reason, 0, v_error, p_trigger, v_run)
               FROM {schema}.method_of(v_view, p_method, p_fallback) m;
        ELSE
            v_error := (SELECT r.error_message FROM {schema}.refresh_view(
                            v_view, p_method, p_fallback, p_trigger, p_lock_timeout, p_wait_timeout,
                            v_run) r);
        END IF;
        IF v_error IS NOT NULL THEN
            v_missed := v_missed || v_view;
            v_errors := v_errors || v_error;
        END IF;
        COMMIT;
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
    END LOOP;
    IF v_missed <> '{{}}' THEN
        RAISE EXCEPTION USING
            MESSAGE = pg_catalog.cardinality(v_missed) || ' of '
                || pg_catalog.cardinality(v_views) || ' views were not refreshed',
            DETAIL = pg_catalog.array_to_string(v_errors, E'\n');
    END IF;
END
$procedure$;
