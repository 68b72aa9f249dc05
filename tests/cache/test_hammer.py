"""The hammer of the cache, short; the long one is `python -m tests.hammers --only cache`."""

from __future__ import annotations

import pytest
from tests.hammers import cache


@pytest.mark.parametrize("seed", [1, 2])
def test_no_answer_is_older_than_its_call(seed):
    cache.run(seed=seed, seconds=2, calls=20_000)
