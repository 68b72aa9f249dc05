"""Work on threads of the library's own."""

from __future__ import annotations

import subprocess
import sys
from threading import Event, Thread, current_thread

import pytest

from mvrefresh.refreshing.threads import OurThread, in_thread, on_our_thread


def test_the_result_arrives_with_arguments_and_name():
    def work(*args, **kwargs):
        return args, kwargs, current_thread()

    future = in_thread("mvrefresh-test", work, 1, 2, key="word")
    args, kwargs, thread = future.result(10)
    assert (args, kwargs) == ((1, 2), {"key": "word"})
    assert thread is future.thread
    assert thread.name == "mvrefresh-test"
    assert thread.daemon
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_is_raised_goes_to_whoever_reads_the_future(error):
    def work():
        raise error

    future = in_thread("mvrefresh-test", work)
    assert future.exception(10) is error
    with pytest.raises(type(error)):
        future.result()


def test_work_that_was_begun_cannot_be_cancelled():
    gate = Event()
    future = in_thread("mvrefresh-test", gate.wait)
    assert future.running()
    assert not future.cancel()
    gate.set()
    assert future.result(10)


def test_callbacks_know_that_they_run_on_a_thread_of_ours():
    gate, seen = Event(), []
    future = in_thread("mvrefresh-test", gate.wait)
    future.add_done_callback(lambda _: seen.append((on_our_thread(), current_thread())))
    gate.set()
    future.thread.join(10)
    assert seen == [(True, future.thread)]
    assert isinstance(future.thread, OurThread)


def test_threads_of_the_host_are_not_ours():
    seen = []
    host = Thread(target=lambda: seen.append(on_our_thread()))
    host.start()
    host.join(10)
    assert [*seen, on_our_thread()] == [False, False]


def test_a_process_ends_although_work_goes_on():
    program = (
        "from threading import Event\n"
        "from mvrefresh.refreshing.threads import in_thread\n"
        "in_thread('mvrefresh-test', Event().wait)\n"
        "print('the end')"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the end\n", "")
