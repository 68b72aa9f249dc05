"""`nox -s hammer`: the long runs, on servers of their own; `--only cache` needs none."""

from __future__ import annotations

import argparse
import logging
from contextlib import closing

import psycopg
from tests.hammers import cache, coherence, fleet
from tests.pooler import PgBouncer
from tests.servers import PostgresServer, postgres_bin_dir


def fleets(arguments: argparse.Namespace) -> None:
    with PostgresServer(postgres_bin_dir(arguments.pg)) as server:
        numbers = iter(range(100))

        def database() -> str:
            name = f"hammer{next(numbers)}"
            with closing(psycopg.connect(server.dsn(), autocommit=True)) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            return server.dsn(name)

        said = "eight processes, a service of 1 s"
        print(f"{said}: {fleet.run(database(), seconds=arguments.seconds)}")
        target = database()
        with PgBouncer(target) as pooler:
            through = pooler.pooled()
            audit = fleet.run(target, through=through, seconds=arguments.seconds)
        print(f"{said}, through PgBouncer: {audit}")
        print(f"kill -9 of the worker: another after {fleet.kill_the_worker(database()):.2f} s")
        print(f"SIGSTOP of the worker for 10 s: {fleet.suspend_the_worker(database())}")
        print(f"256 callers of force(): {fleet.crowd(database())} refreshes")
    with PostgresServer(postgres_bin_dir(arguments.pg)) as server:
        print(f"restarts of the server: {fleet.restarts(server)}")


def caches(arguments: argparse.Namespace) -> None:
    audit = cache.run(seed=arguments.seed, seconds=arguments.seconds)
    print(f"{cache.READERS} readers of one cache, seed {arguments.seed}: {audit}")


SWITCHED_OFF: dict[tuple[str, ...], dict[str, int]] = {
    ("chain",): {"make_the_views_again": 1, "fail_over": 1},
    ("passing",): {},
    ("tags",): {},
    ("token",): {},
    ("watch", "lease"): {},
    ("lease",): {"go_silent": 1},
    ("poll", "lease"): {"go_silent": 1},
    ("reread",): {"refresh_unheard": 1},
}
"""Mechanisms, and the faults that they are there for; the others would only make it longer."""


def coherent(arguments: argparse.Namespace) -> None:
    who, seed = f"{len(coherence.PROCESSES)} processes of resolvers", arguments.seed
    with PostgresServer(postgres_bin_dir(arguments.pg)) as server:
        audit = coherence.run(server, seed=seed, seconds=arguments.seconds, faults=arguments.faults)
        print(f"{who}, seed {seed}: {audit}")
        assert not audit.stale_answers, audit.stale
        assert "ended" not in audit.errors
    for off, pack in SWITCHED_OFF.items():
        with PostgresServer(postgres_bin_dir(arguments.pg)) as server:
            audit = coherence.run(server, seed=seed, seconds=120, pack=pack, off=off)
        print(f"{who}, seed {seed}, without {' and '.join(off)}: {audit}")
        assert audit.stale_answers, "this hammer cannot fail"


HAMMERS = {"cache": caches, "coherence": coherent, "fleet": fleets}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=HAMMERS, help="one of them")
    parser.add_argument("--pg", type=int, default=18, help="major of the server")
    parser.add_argument("--seconds", type=float, default=30, help="how long each runs at least")
    parser.add_argument("--faults", type=int, default=0, help="how many coherence has at least")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn")
    arguments = parser.parse_args()
    logging.disable()  # of what is provoked here
    for name, hammer in HAMMERS.items():
        if arguments.only in (None, name):
            hammer(arguments)


if __name__ == "__main__":
    main()
