"""Bring mvrefresh's schema to version 6: which rows have changed, and refreshes from SQL."""

from alembic import op

from mvrefresh import Schema

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in Schema().statements(since=4, until=6):
        op.execute(statement.as_string())


def downgrade() -> None:
    op.execute("DROP PROCEDURE mvrefresh.refresh_views")
    for name in (
        *("refresh_view", "record_unrefreshed", "check_refresh", "method_of", "views_read"),
        *("label_of", "quoted", "keys_changed", "keys_touched", "key_of"),
    ):
        op.execute(f"DROP FUNCTION mvrefresh.{name}")
    op.execute("ALTER TABLE mvrefresh.state DROP COLUMN changes, DROP COLUMN epoch")
    # finish_refresh as it was: that is version 3, anew.
    op.execute("DELETE FROM mvrefresh.version WHERE version IN (3, 5, 6)")
    for statement in Schema().statements(since=2, until=3):
        op.execute(statement.as_string())
