"""Everything that is checked, and nothing that needs more than Python and pip."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.2.9"  # dependency groups out of pyproject.toml
nox.options.sessions = ["lint", "types", "imports", "tests", "docs", "examples"]
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "virtualenv"

GROUPS = nox.project.load_toml("pyproject.toml")["dependency-groups"]


def install(session: nox.Session, *groups: str) -> None:
    """The project with its demo servers, and the named dependency groups."""
    wanted = [requirement for group in groups for requirement in GROUPS[group]]
    session.install("-e", ".[all]", *wanted)


@nox.session
def tests(session: nox.Session) -> None:
    install(session, "test", "examples", "bench", "web")
    # Each worker has servers of its own; what one of them waits for leaves a core to the other.
    session.run("pytest", "-n", "2", "--dist", "worksteal", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    session.install(*GROUPS["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    install(session, "types")
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    install(session, "imports")
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "docs", "docs/_build", *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    install(session, "test", "examples")
    session.run("pytest", "tests/test_examples.py", "tests/docs", *session.posargs)


@nox.session
def web(session: nox.Session) -> None:
    install(session, "test", "web")
    session.run("pytest", "tests/web", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    install(session, "test", "bench")
    session.run("python", "-m", "bench", *session.posargs)


@nox.session
def hammer(session: nox.Session) -> None:
    install(session, "test")
    session.run("python", "-m", "tests.hammers", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    install(session)
    session.run("mvrefresh", "demo", *session.posargs)
