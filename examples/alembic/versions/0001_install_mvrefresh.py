"""Install mvrefresh's tables and function."""

from alembic import op

from mvrefresh import Schema

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A fixed version of mvrefresh's schema, whatever version of the library runs this.
    for statement in Schema().statements(until=3):
        op.execute(statement.as_string())


def downgrade() -> None:
    op.execute("DROP SCHEMA mvrefresh CASCADE")  # the history goes with it
