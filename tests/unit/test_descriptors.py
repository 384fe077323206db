"""A program that has used up its descriptors between opening a pool and its first task."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conformance.columns import FORKING

ROOT = Path(__file__).parents[2]
PROGRAM = textwrap.dedent(
    """
    import os, resource
    from unirun.compat.concurrent.futures import ProcessPoolExecutor

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    pool = ProcessPoolExecutor(2)
    kept = []
    try:
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    print(pool.submit(abs, -3).result(20), pool.decision.backend)
    for descriptor in kept:
        os.close(descriptor)
    pool.shutdown()
    """
)


@FORKING
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="other systems have other limits")
@pytest.mark.parametrize("ladder", [None, "pipes,threads,inline"])
def test_threads_serve_when_no_descriptor_is_left(ladder: str | None) -> None:
    """What they are made of cannot be imported any more, and was before; a pool over pipes is refused."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        cwd=ROOT,
        env=os.environ | ({"UNIRUN_LADDER": ladder} if ladder else {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout == "3 threads\n", run.stderr
