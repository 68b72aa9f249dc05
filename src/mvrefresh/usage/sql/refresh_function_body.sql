#variable_conflict use_column
DECLARE
    v_run     CONSTANT uuid := pg_catalog.gen_random_uuid();
    v_view    record;
    v_broken  text;
    v_error   text;
    v_message text;
    v_hint    text;
    v_state   text;
    v_missed  oid[] := '{{}}';
BEGIN
    -- The lock of each view is held until the caller's COMMIT, so two calls that took them in
    -- different orders would end in a deadlock. Hence one order for all calls: a view after those
    -- that it reads, else by name. (Whoever refreshes one view per transaction, as the library does,
    -- never waits while it holds another.)
    FOR v_view IN
        SELECT c.oid AS id, wanted.label
          FROM (VALUES {views}) wanted (schema, name, label)
          LEFT JOIN (pg_catalog.pg_class c
                     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace)
            ON n.nspname = wanted.schema AND c.relname = wanted.name
         ORDER BY (SELECT pg_catalog.count(*) FROM {schema}.views_read(c.oid, true)), wanted.label
    LOOP
        BEGIN
            v_broken := (SELECT pg_catalog.string_agg({schema}.label_of(r.view), ', ' ORDER BY r.view)
                           FROM {schema}.views_read(v_view.id) r (view)
                          WHERE r.view = ANY (v_missed));
            IF v_view.id IS NULL THEN
                v_error := v_view.label || ': there is no such materialized view. Create it.';
            ELSIF v_broken IS NOT NULL THEN
                v_error := v_view.label || ': ' || v_broken
                    || ' was not refreshed. Mend the view it reads; this one was left alone.';
                PERFORM {schema}.record_unrefreshed(
                    v_view.label, 'skipped_upstream', NULL, m.reason, 0, v_error, {trigger}, v_run)
                   FROM {schema}.method_of(v_view.id, 'auto', 'regular') m;
            ELSE
                v_error := (SELECT r.error_message
                              FROM {schema}.refresh_view(
                                       v_view.id::regclass, p_trigger => {trigger},
                                       p_run_id => v_run) r);
            END IF;
        EXCEPTION WHEN OTHERS THEN  -- what cannot be meant of this view does not end the others
            GET STACKED DIAGNOSTICS v_message = MESSAGE_TEXT, v_hint = PG_EXCEPTION_HINT,
                v_state = RETURNED_SQLSTATE;
            v_error := pg_catalog.concat_ws(
                ' ', v_view.label || ': ' || v_message || ' [' || v_state || '].', nullif(v_hint, ''));
        END;
        BEGIN
            INSERT INTO {log} (view_name, refreshed_at, success, error_message)
            VALUES (v_view.label, pg_catalog.clock_timestamp(), v_error IS NULL, v_error);
        EXCEPTION WHEN OTHERS THEN  -- a log that takes no row costs no refresh
            RAISE WARNING USING MESSAGE =
                'the row of ' || v_view.label || ' in the refresh log is lost: ' || SQLERRM;
        END;
        IF v_error IS NOT NULL THEN
            v_missed := v_missed || v_view.id;
            -- The statement succeeds: a job that looks at nothing but that would be told nothing.
            RAISE WARNING USING MESSAGE = v_error;
        END IF;
        view_name := v_view.label;
        refresh_status := coalesce(v_error, 'success');
        RETURN NEXT;
    END LOOP;
END
