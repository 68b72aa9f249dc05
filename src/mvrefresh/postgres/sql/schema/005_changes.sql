-- Which rows a refresh has changed: their keys, in the state row, beside the tag that they lead to.
-- A reader that knows one of the earlier tags drops those rows alone.
--
-- changes: a chain of links, the newest first, each {{"n", "t", "p", "column", "type", "keys"}}:
-- refresh_no and content_token, the token before, and the keys of the rows that differ between the
-- two contents. Whoever finds no link that begins with the token that he knows has to take all rows
-- for changed.
-- epoch: the content_token of the content with which the chain began, however much of it is kept.
ALTER TABLE {schema}.state
    ADD COLUMN IF NOT EXISTS changes jsonb,
    ADD COLUMN IF NOT EXISTS epoch uuid;

-- The column whose values name the rows: of a unique index that CONCURRENTLY can use, alone, and of a
-- type that JSON has (a uuid as text). Nulls if there is none, or the caller may not read it.
CREATE OR REPLACE FUNCTION {schema}.key_of(p_view oid, OUT name name, OUT type text)
LANGUAGE sql STABLE AS $function$
    SELECT a.attname, pg_catalog.format_type(a.atttypid, NULL)
      FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
     WHERE i.indrelid = p_view AND i.indisunique AND i.indimmediate AND i.indisvalid
       AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = 1
       AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype,
                          'text'::regtype, 'varchar'::regtype)
       AND pg_catalog.has_column_privilege(p_view, a.attnum, 'SELECT')
     ORDER BY a.attnum
     LIMIT 1
$function$;

-- The keys of the rows of a view that a transaction has written; or of those that it has deleted,
-- which only a snapshot from before can see. Hence STABLE: such a function sees what the statement
-- sees that calls it, and that is a cursor opened before the REFRESH (named mvrefresh_gone).
-- The transaction's number comes by a setting: with the cursor it is not known yet.
CREATE OR REPLACE FUNCTION {schema}.keys_touched(p_view oid, p_deleted boolean) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $function$
DECLARE
    v_key  name := (SELECT k.name FROM {schema}.key_of(p_view) k);
    v_keys jsonb;
BEGIN
    IF v_key IS NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE 'SELECT coalesce(pg_catalog.jsonb_agg(v.' || pg_catalog.quote_ident(v_key) || '), ''[]'')'
        ' FROM ' || p_view::regclass || ' v WHERE v.'
        || CASE WHEN p_deleted THEN 'xmax' ELSE 'xmin' END || ' = $1'
    INTO v_keys USING pg_catalog.current_setting('mvrefresh.xid')::xid;
    RETURN v_keys;
END
$function$;

-- What the last refresh has changed, as `keys` of a link; null if nobody can tell, or it is much.
CREATE OR REPLACE FUNCTION {schema}.keys_changed(
    p_view oid, p_xid xid, p_inserted bigint, p_deleted bigint
) RETURNS jsonb LANGUAGE plpgsql
SET mvrefresh.xid TO ''  -- in here alone: the transaction may be the caller's
AS $function$
DECLARE
    v_gone    refcursor := 'mvrefresh_gone';
    v_deleted jsonb;
    v_written jsonb;
BEGIN
    IF coalesce(greatest(p_inserted, p_deleted), 1001) > 1000
       OR NOT EXISTS (SELECT FROM pg_catalog.pg_cursors c WHERE c.name = 'mvrefresh_gone') THEN
        RETURN NULL;
    END IF;
    PERFORM pg_catalog.set_config('mvrefresh.xid', p_xid::text, true);
    FETCH v_gone INTO v_deleted;
    v_written := {schema}.keys_touched(p_view, false);
    -- The counters know how many there are: fewer here, and something was not seen.
    IF pg_catalog.jsonb_array_length(v_deleted) = p_deleted
       AND pg_catalog.jsonb_array_length(v_written) = p_inserted THEN
        RETURN (SELECT pg_catalog.jsonb_agg(DISTINCT k.key)
                  FROM pg_catalog.jsonb_array_elements(v_deleted || v_written) k (key));
    END IF;
    RETURN NULL;
END
$function$;

-- As in version 3, and besides: the chain of changes, the keys in the notification, and it may stand
-- in a subtransaction (a block with EXCEPTION), whose number is then that of the rows.
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
    v_xid       xid := (SELECT c.xmin FROM pg_catalog.pg_class c WHERE c.oid = p_view);
    v_old_no    bigint;
    v_old_token uuid;
    v_chain     jsonb;
    v_epoch     uuid;
    v_keys      jsonb;
    v_payload   text;
    v_written   xid;
BEGIN
    duration_ms := EXTRACT(epoch FROM v_finished - p_started) * 1000;
    -- REFRESH CONCURRENTLY writes the differing rows alone, so "wrote none" proves "changed
    -- nothing". The counters also hold what this session did before: hence the difference.
    IF pg_catalog.current_setting('track_counts')::boolean THEN
        rows_inserted := pg_catalog.pg_stat_get_xact_tuples_inserted(p_view) - p_inserted_before;
        IF p_strategy <> 'regular' THEN  -- which deletes nothing: it puts a new heap in place
            rows_deleted := pg_catalog.pg_stat_get_xact_tuples_deleted(p_view) - p_deleted_before;
        END IF;
    END IF;
    SELECT s.refresh_no, s.content_token, s.changes, coalesce(s.epoch, s.content_token)
      INTO v_old_no, v_old_token, v_chain, v_epoch
      FROM {schema}.state s WHERE s.view = p_view;
    -- p_known: before this refresh the content was that of the state row, nobody else's.
    content_changed := NOT coalesce(
        p_known AND p_strategy = 'concurrent' AND rows_inserted = 0 AND rows_deleted = 0
        AND v_old_token IS NOT NULL, false);
    IF content_changed THEN
        refresh_no := coalesce(v_old_no, 0) + 1;
        content_token := pg_catalog.gen_random_uuid();
        IF p_known AND p_strategy = 'concurrent' THEN
            v_keys := {schema}.keys_changed(p_view, v_xid, rows_inserted, rows_deleted);
        END IF;
        IF v_keys IS NULL THEN
            v_chain := NULL;
            v_epoch := content_token;
        ELSE
            -- No more than 50 links, or 3,000 keys: the row is read at every refresh.
            v_chain := (
                SELECT pg_catalog.jsonb_agg(l.link ORDER BY l.place)
                  FROM (SELECT link, place,
                               sum(pg_catalog.jsonb_array_length(link -> 'keys'))
                                   OVER (ORDER BY place) AS keys
                          FROM pg_catalog.jsonb_array_elements(
                                   (SELECT pg_catalog.jsonb_build_array(
                                               pg_catalog.jsonb_build_object(
                                                   'n', refresh_no, 't', content_token,
                                                   'p', v_old_token, 'column', k.name,
                                                   'type', k.type, 'keys', v_keys))
                                      FROM {schema}.key_of(p_view) k)
                                   || coalesce(v_chain, '[]')) WITH ORDINALITY e (link, place)) l
                 WHERE l.place <= 50 AND l.keys <= 3000);
        END IF;
    ELSE
        refresh_no := v_old_no;
        content_token := v_old_token;
        v_keys := '[]';
    END IF;
    INSERT INTO {schema}.state AS s (
        view, refresh_no, content_token, content_as_of, content_snapshot,
        last_started_at, last_finished_at, last_duration_ms, last_strategy, last_run_id,
        changes, epoch)
    VALUES (
        p_view, refresh_no, content_token, p_as_of, p_snapshot,
        p_started, v_finished, duration_ms, p_strategy, p_run_id, v_chain, v_epoch)
    ON CONFLICT (view) DO UPDATE SET
        refresh_no = EXCLUDED.refresh_no, content_token = EXCLUDED.content_token,
        content_as_of = EXCLUDED.content_as_of, content_snapshot = EXCLUDED.content_snapshot,
        last_started_at = EXCLUDED.last_started_at, last_finished_at = EXCLUDED.last_finished_at,
        last_duration_ms = EXCLUDED.last_duration_ms, last_strategy = EXCLUDED.last_strategy,
        last_run_id = EXCLUDED.last_run_id, changes = EXCLUDED.changes, epoch = EXCLUDED.epoch
    RETURNING s.xmin INTO v_written;
    -- REFRESH goes by name, and a name can move while it waits: did it rewrite this view?
    IF v_written IS DISTINCT FROM v_xid THEN
        RAISE EXCEPTION USING ERRCODE = 'MV002',
            MESSAGE = 'another view took the name while the refresh waited';
    END IF;

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
        v_payload := pg_catalog.json_build_object(
            'view', p_label, 'n', refresh_no, 't', content_token, 'p', v_old_token, 'k', v_keys)::text;
        IF pg_catalog.octet_length(v_payload) > 7999 THEN
            v_payload := pg_catalog.json_build_object(
                'view', p_label, 'n', refresh_no, 't', content_token, 'p', v_old_token, 'k', NULL)::text;
        END IF;
        PERFORM pg_catalog.pg_notify({channel}, v_payload);
    END IF;
END
$function$;
