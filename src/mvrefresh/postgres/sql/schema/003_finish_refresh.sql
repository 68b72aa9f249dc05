-- The end of every refresh, in the refresh's own transaction, just before COMMIT: state, history
-- and notification in one call, so that nothing stands between REFRESH and COMMIT but this.
--
-- history: 'best_effort' swallows a failing insert and reports it; 'required' lets it fail the
-- transaction; 'none' writes none. All names are qualified: the caller's search_path is not ours.
CREATE OR REPLACE FUNCTION {schema}.finish_refresh(
    p_view oid, p_label text, p_started timestamptz,
    p_as_of timestamptz, p_snapshot pg_snapshot, p_known boolean,
    p_inserted_before bigint, p_deleted_before bigint,
    p_strategy text, p_reason text, p_trigger text, p_run_id uuid, p_host text,
    p_history text, p_notify boolean,
    OUT refresh_no bigint, OUT content_token uuid, OUT content_changed boolean,
    OUT rows_inserted bigint, OUT rows_deleted bigint,
    OUT duration_ms double precision, OUT record_id bigint, OUT record_error text
) LANGUAGE plpgsql AS $function$
#variable_conflict use_column
DECLARE
    v_finished  timestamptz := pg_catalog.clock_timestamp();
    v_old_no    bigint;
    v_old_token uuid;
BEGIN
    -- REFRESH goes by name, and a name can move while it waits: did it rewrite this view?
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class c
                    WHERE c.oid = p_view AND c.xmin = pg_catalog.pg_current_xact_id()::xid) THEN
        RAISE EXCEPTION USING ERRCODE = 'MV002',
            MESSAGE = 'another view took the name while the refresh waited';
    END IF;
    duration_ms := EXTRACT(epoch FROM v_finished - p_started) * 1000;
    -- REFRESH CONCURRENTLY writes the differing rows alone, so "wrote none" proves "changed
    -- nothing". The counters also hold what this session did before: hence the difference.
    IF pg_catalog.current_setting('track_counts')::boolean THEN
        rows_inserted := pg_catalog.pg_stat_get_xact_tuples_inserted(p_view) - p_inserted_before;
        IF p_strategy <> 'regular' THEN  -- which deletes nothing: it puts a new heap in place
            rows_deleted := pg_catalog.pg_stat_get_xact_tuples_deleted(p_view) - p_deleted_before;
        END IF;
    END IF;
    SELECT s.refresh_no, s.content_token INTO v_old_no, v_old_token
      FROM {schema}.state s WHERE s.view = p_view;
    -- p_known: before this refresh the content was that of the state row, nobody else's.
    content_changed := NOT coalesce(
        p_known AND p_strategy = 'concurrent' AND rows_inserted = 0 AND rows_deleted = 0
        AND v_old_token IS NOT NULL, false);
    IF content_changed THEN
        refresh_no := coalesce(v_old_no, 0) + 1;
        content_token := pg_catalog.gen_random_uuid();
    ELSE
        refresh_no := v_old_no;
        content_token := v_old_token;
    END IF;
    INSERT INTO {schema}.state AS s VALUES (
        p_view, refresh_no, content_token, p_as_of, p_snapshot,
        p_started, v_finished, duration_ms, p_strategy, p_run_id)
    ON CONFLICT (view) DO UPDATE SET
        refresh_no = EXCLUDED.refresh_no, content_token = EXCLUDED.content_token,
        content_as_of = EXCLUDED.content_as_of, content_snapshot = EXCLUDED.content_snapshot,
        last_started_at = EXCLUDED.last_started_at, last_finished_at = EXCLUDED.last_finished_at,
        last_duration_ms = EXCLUDED.last_duration_ms, last_strategy = EXCLUDED.last_strategy,
        last_run_id = EXCLUDED.last_run_id;

    IF p_history <> 'none' THEN
        BEGIN
            IF p_history = 'best_effort' THEN  -- readers may be waiting for this transaction
                PERFORM pg_catalog.set_config('lock_timeout', '200ms', true);
            END IF;
            INSERT INTO {metrics}.refresh_metrics (
                view_name, refresh_duration_ms, success, created_at, status, strategy, reason,
                trigger, run_id, refresh_no, host, rows_inserted, rows_deleted)
            VALUES (
                p_label, duration_ms, true, v_finished, 'succeeded', p_strategy, p_reason,
                p_trigger, p_run_id, refresh_no, p_host, rows_inserted, rows_deleted)
            RETURNING id INTO record_id;
        EXCEPTION WHEN OTHERS THEN
            IF p_history = 'required' THEN
                RAISE EXCEPTION USING ERRCODE = 'MV001',
                    MESSAGE = 'the history did not take the record: ' || SQLERRM;
            END IF;
            record_error := SQLERRM;
        END;
    END IF;

    IF p_notify THEN
        PERFORM pg_catalog.pg_notify({channel}, pg_catalog.json_build_object(
            'view', p_label, 'n', refresh_no, 't', content_token,
            'p', v_old_token, 'k', NULL)::text);
    END IF;
END
$function$;
