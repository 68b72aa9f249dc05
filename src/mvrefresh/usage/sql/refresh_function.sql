-- Refreshes the roll-ups in the caller's transaction: with the library's lock, state, history and
-- notification, by mvrefresh.refresh_view. 'success', or what went wrong and what to do, per view.
--
-- OR REPLACE keeps an older function's grants, and the jobs that call it.
CREATE OR REPLACE FUNCTION {function}()
RETURNS TABLE (view_name text, refresh_status text)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path TO pg_catalog, pg_temp
SET lock_timeout TO '1s'  -- for the log's row alone: refresh_view has limits of its own
AS {tag}
{body}
{tag}
