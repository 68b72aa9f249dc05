"""Bring mvrefresh's schema to version 4: the table of the schedules."""

from alembic import op

from mvrefresh import Schema

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in Schema().statements(since=3, until=4):
        op.execute(statement.as_string())


def downgrade() -> None:
    # When each view is due is forgotten; state and history stay.
    op.execute("DROP TRIGGER resume_schedule ON mvrefresh.state")
    op.execute("DROP FUNCTION mvrefresh.resume_schedule()")
    op.execute("DROP TABLE mvrefresh.schedule")
    op.execute("DELETE FROM mvrefresh.version WHERE version = 4")
