"""Work on a thread of its own, with a future for what comes of it.

Not a `ThreadPoolExecutor`: the interpreter waits for its threads when the process ends, and a host
that forgot to stop a refresh of an hour would hang for it. These are daemons.
"""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from threading import Thread, current_thread
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class OurThread(Thread):
    """A thread of the library's: what a callback on it waits for may be waiting for it.

    Its crew, a service's session say, is that of the thread that starts it, unless one is given.
    """

    def __init__(self, *, crew: object = None, **kwargs: Any) -> None:
        super().__init__(daemon=True, **kwargs)
        self.crew = crew if crew is not None else current_crew()


def current_crew() -> object:
    """The crew that the current thread belongs to; None for a host's thread."""
    thread = current_thread()
    return thread.crew if isinstance(thread, OurThread) else None


def on_our_thread() -> bool:
    """Whether the caller runs on a thread of the library's, as callbacks do."""
    return isinstance(current_thread(), OurThread)


class Work(Future[T], Generic[T]):
    """A future that knows its thread."""

    thread: Thread


def settle(future: Future[T], work: Callable[[], T]) -> None:
    """Let a future that runs have what `work` gives, or whatever it raises."""
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - whoever reads the future gets it
        future.set_exception(error)
    else:
        future.set_result(result)


def in_thread(name: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Work[T]:
    """Call `work` on a new daemon thread; the future has its result or what it raised."""
    return crew_thread(None, name, work, *args, **kwargs)


def crew_thread(
    crew: object, name: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> Work[T]:
    """As `in_thread`, as one of a crew."""
    future: Work[T] = Work()
    future.set_running_or_notify_cancel()
    call = partial(work, *args, **kwargs)
    future.thread = OurThread(crew=crew, target=settle, args=(future, call), name=name)
    future.thread.start()
    return future
