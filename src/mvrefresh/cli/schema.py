"""`schema`: the library's own tables and functions, shown, installed, checked."""

from __future__ import annotations

import click

from mvrefresh.cli.documents import schema_document
from mvrefresh.cli.options import global_options
from mvrefresh.cli.session import Session, pass_session
from mvrefresh.cli.sight import SchemaVersion
from mvrefresh.cli.wording import one_line
from mvrefresh.postgres.schema import Schema


@click.command("schema")
@click.option(
    "--sql", "what", flag_value="sql", help="Print the DDL, for a migration of one's own."
)
@click.option("--apply", "what", flag_value="apply", help="Install it, or upgrade it in place.")
@click.option("--check", "what", flag_value="check", help="Exit with 4 if it is not as needed.")
@global_options
@pass_session
def schema(session: Session, what: str | None) -> None:
    """Show the version of the library's tables, or install them.

    Nothing is ever created but by --apply (or by the DDL of --sql, run by yourself).
    """
    if what == "sql":
        _print_sql(session)
        return
    with session.database() as database, database.dedicated() as connection:
        place = database.schema
        before = installed = place.version(connection)
        if what == "check":
            place.check(connection)
        elif what == "apply":
            before, installed = place.apply(connection)
    found = SchemaVersion(place, installed)
    session.answer(
        schema_document(found, before=before if what == "apply" else None),
        lambda console: console.print(_words(found, before), soft_wrap=True),
    )


def _words(schema: SchemaVersion, before: int) -> str:
    words = schema.words
    if schema.installed != before:
        done = f"upgraded from version {before}" if before else "installed"
        words = f"{done}, now at version {schema.installed}"
    return f"Schema {one_line(schema.place.name)}: {words}."


def _print_sql(session: Session) -> None:
    place = Schema(session.schema or "mvrefresh", session.metrics_schema)
    sql = place.ddl()
    # Not through rich: it is a file, not a page.
    session.answer({"sql": sql}, lambda _: click.echo(sql, nl=False))
