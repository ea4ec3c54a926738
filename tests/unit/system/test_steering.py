import os

import pytest

from openmoat.system.steering import MAX_SUITABLE_WORKERS, suitable_workers


@pytest.mark.parametrize(
    ("cores", "workers"), [(1, 1), (2, 1), (3, 1), (4, 2), (16, 8), (32, 16), (256, MAX_SUITABLE_WORKERS)]
)
def test_threads_are_as_many_as_cores_but_one_pair_at_least(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(cores)))
    assert suitable_workers() == workers
