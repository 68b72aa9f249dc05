"""The public names: all there, each its module's own, and none loaded before it is used."""

from __future__ import annotations

import ast
import inspect
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import mvrefresh

HEAVY = {"cachetools", "cronsim", "orjson", "psycopg", "psycopg_pool", "redis", "tenacity"}


def run(program: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", inspect.cleandoc(program)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def for_type_checkers() -> dict[str, str]:
    """Name -> module, as the imports that only a type checker sees say it."""
    tree = ast.parse(Path(mvrefresh.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node for node in tree.body if isinstance(node, ast.If) and "TYPE" in ast.dump(node.test)
        if all(isinstance(line, ast.ImportFrom) for line in node.body)
    )  # fmt: skip
    return {alias.name: line.module for line in block.body for alias in line.names}


def test_the_names_are_said_three_times_alike():
    seen = {name: module.removeprefix("mvrefresh.") for name, module in for_type_checkers().items()}
    assert seen == mvrefresh._MODULES
    assert sorted(seen) == mvrefresh.__all__


def test_a_type_checker_sees_these_names_and_no_others():
    """One that sees a module's `__getattr__` takes every name for one of the module's."""
    tree = ast.parse(Path(mvrefresh.__file__).read_text(encoding="utf-8"))
    assert "__getattr__" not in {getattr(node, "name", None) for node in tree.body}


@pytest.mark.parametrize("name", mvrefresh.__all__)
def test_a_name_is_that_of_its_module(name):
    value = getattr(mvrefresh, name)
    assert value is getattr(import_module(for_type_checkers()[name]), name)
    assert vars(mvrefresh)[name] is value  # the next time it costs nothing
    assert name in dir(mvrefresh)


def test_what_is_imported_is_what_is_used():
    """The import alone loads nothing else of ours, and no library that we stand on."""
    loaded = run("""
        import sys, mvrefresh
        print(*(name for name in sys.modules if name.startswith("mvrefresh")), sep=",")
        print(*{name.partition(".")[0] for name in sys.modules}, sep=",")
    """).splitlines()
    assert loaded[0] == "mvrefresh"
    assert not HEAVY & set(loaded[1].split(","))
    values = run("import sys; from mvrefresh import Every, RefreshPolicy; print(*sys.modules)")
    assert not (HEAVY - {"cronsim"}) & set(values.split())
    all_of_them = set(run("import sys; from mvrefresh import *; print(*sys.modules)").split())
    assert "redis" not in all_of_them  # it is for who has an L2


def test_a_host_that_has_no_logging_sees_no_words_of_ours():
    """Without a handler of its own, logging would write warnings to stderr."""
    assert run("""
        import logging, mvrefresh
        print(*(type(handler).__name__ for handler in logging.getLogger("mvrefresh").handlers))
    """) == "NullHandler"  # fmt: skip


def test_a_star_brings_all():
    assert run("""
        from mvrefresh import *
        import mvrefresh
        assert all(globals()[name] is getattr(mvrefresh, name) for name in mvrefresh.__all__)
        print(len(mvrefresh.__all__))
    """) == str(len(mvrefresh.__all__))  # fmt: skip


def test_modules_are_there_without_an_import_of_their_own():
    """As in `except mvrefresh.errors.PoolExhausted`; `refresh` is the function in any order."""
    assert run("""
        import mvrefresh
        assert mvrefresh.errors.MvrefreshError is mvrefresh.MvrefreshError
        assert mvrefresh.refreshing.__name__ == "mvrefresh.refreshing"
        import mvrefresh.refreshing.plan, mvrefresh.cli
        assert callable(mvrefresh.refresh) and callable(mvrefresh.plan)
        assert {"errors", "refresh", "__doc__"} <= set(dir(mvrefresh))
        from mvrefresh import postgres, testing
        print(postgres.__name__, testing.__name__)
    """) == "mvrefresh.postgres mvrefresh.testing"  # fmt: skip


def test_a_name_that_is_none_of_ours():
    with pytest.raises(AttributeError, match=r"^module 'mvrefresh' has no attribute 'Databas'$"):
        mvrefresh.Databas  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Databas' from 'mvrefresh'"):
        from mvrefresh import Databas  # noqa: F401


def test_many_threads_that_touch_all_names_at_once_get_the_same():
    assert run("""
        import random, sys, threading
        import mvrefresh
        sys.setswitchinterval(1e-5)
        together, seen = threading.Barrier(8), []
        def touch(number):
            names = random.Random(number).sample(mvrefresh.__all__, len(mvrefresh.__all__))
            together.wait()
            seen.append({name: getattr(mvrefresh, name) for name in names})
        threads = [threading.Thread(target=touch, args=[number]) for number in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(seen), all(each == seen[0] for each in seen))
    """) == "8 True"  # fmt: skip


def test_what_is_pickled_is_found_again_by_a_process_that_has_used_nothing():
    policy = mvrefresh.RefreshPolicy(jobs=3)
    stored = pickle.dumps([policy, mvrefresh.Every(seconds=5), mvrefresh.Status.SUCCEEDED])
    assert run(f"""
        import pickle, mvrefresh
        policy, schedule, status = pickle.loads({stored!r})
        print(policy.jobs, type(schedule) is mvrefresh.Every, status is mvrefresh.Status.SUCCEEDED)
    """) == "3 True True"  # fmt: skip
