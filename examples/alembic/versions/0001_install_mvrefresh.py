"""Install mvrefresh's tables and function."""

from alembic import op

from mvrefresh import Schema

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

VERSION = 3  # of mvrefresh's schema: a fixed one, whatever version of the library runs this


def upgrade() -> None:
    for statement in Schema().statements()[: 1 + VERSION]:
        op.execute(statement.as_string())


def downgrade() -> None:
    op.execute("DROP SCHEMA mvrefresh CASCADE")  # the history goes with it
