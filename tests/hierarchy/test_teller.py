"""Events are told in their order, and nobody waits for those who listen."""

from __future__ import annotations

import queue
import threading

from mvrefresh.events import TierRecovered
from mvrefresh.hierarchy.teller import Teller

PATIENCE = 20


def test_who_tells_does_not_wait_and_the_order_stays():
    heard, go_on = queue.Queue(), threading.Event()

    def slow(event):
        go_on.wait(PATIENCE)
        heard.put((event.tier, threading.current_thread().name))

    tell = Teller(slow)
    for number in range(20):
        tell(TierRecovered(str(number)))
    assert heard.empty()
    go_on.set()
    told = [heard.get(timeout=PATIENCE) for _ in range(20)]
    assert [tier for tier, _ in told] == [str(number) for number in range(20)]
    assert {name for _, name in told} == {"mvrefresh-teller"}
    tell(TierRecovered("later"))
    assert heard.get(timeout=PATIENCE)[0] == "later"


def test_in_a_forked_child_it_tells_anew():
    heard, go_on = queue.Queue(), threading.Event()

    def slow(event):
        go_on.wait(PATIENCE)
        heard.put(event.tier)

    tell = Teller(slow)
    tell(TierRecovered("the parent's"))
    tell.after_fork()  # its thread would not be there
    go_on.set()
    tell(TierRecovered("the child's"))
    assert {heard.get(timeout=PATIENCE) for _ in range(2)} == {"the parent's", "the child's"}
