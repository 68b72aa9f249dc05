"""Work on a thread of its own, with a future for what comes of it.

Not a `ThreadPoolExecutor`: the interpreter waits for its threads when the process ends, and a host
that forgot to stop a refresh of an hour would hang for it. These are daemons.
"""

from __future__ import annotations

from concurrent.futures import Future
from threading import Thread, current_thread
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class OurThread(Thread):
    """A thread of the library's: what a callback on it waits for may be waiting for it."""


def on_our_thread() -> bool:
    """Whether the caller runs on a thread of the library's, as callbacks do."""
    return isinstance(current_thread(), OurThread)


class Work(Future[T], Generic[T]):
    """A future that knows its thread."""

    thread: Thread


def in_thread(name: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Work[T]:
    """Call `work` on a new daemon thread; the future has its result or what it raised."""
    future: Work[T] = Work()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = work(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - whoever reads the future gets it
            future.set_exception(error)
        else:
            future.set_result(result)

    future.thread = OurThread(target=run, name=name, daemon=True)
    future.thread.start()
    return future
