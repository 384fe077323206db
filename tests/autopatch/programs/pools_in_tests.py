"""Tests, of which one fails, that open pools in the workers of pytest-xdist."""
# mypy: ignore-errors

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

POOLS = [(ThreadPoolExecutor, {}), (ProcessPoolExecutor, {"mp_context": multiprocessing.get_context("spawn")})]


@pytest.mark.parametrize(("cls", "options"), POOLS, ids=["threads", "processes"])
@pytest.mark.parametrize("number", range(3))
def test_pool(cls, options, number, worker_id):
    assert worker_id.startswith("gw")
    print(f"{number} {cls.__module__}")
    with cls(1, **options) as pool:
        assert list(pool.map(abs, [-number, -1])) == [number, 1]


def test_fails():
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 3]
