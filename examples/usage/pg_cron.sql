-- Every 15 minutes, by PostgreSQL itself: way C of docs/how-to/usage-analytics.md.
--
-- The function has to be there (UsageSource.create_function), and extension pg_cron: on managed
-- servers it is to be switched on, elsewhere it stands in shared_preload_libraries.

-- Is pg_cron there? No row: CREATE EXTENSION pg_cron, in the database that cron.database_name says.
SELECT * FROM pg_extension WHERE extname = 'pg_cron';

-- A job of this name is replaced. It runs as the role that says this, which has to own the views
-- (or to have MAINTAIN on them, from PostgreSQL 17), and may write the library's tables and the log.
SELECT cron.schedule('refresh-mcp-usage-views', '*/15 * * * *', $$SELECT refresh_mcp_usage_views()$$);

-- Does it run? Its status says whether the statement ended, not whether each view was refreshed.
SELECT j.jobname, d.status, d.return_message, d.start_time, d.end_time
  FROM cron.job j LEFT JOIN cron.job_run_details d USING (jobid)
 WHERE j.jobname = 'refresh-mcp-usage-views'
 ORDER BY d.start_time DESC LIMIT 10;

-- Was each view refreshed?
SELECT view_name, refreshed_at, success, error_message
  FROM archon_mcp_view_refresh_log ORDER BY refreshed_at DESC LIMIT 10;

-- No more of it:
-- SELECT cron.unschedule('refresh-mcp-usage-views');
