"""`decide` holds its rules for any request, settings and host."""

import ast
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings

import unirun.ladder
from tests.property.strategies import configs, hosts, requests
from unirun.config import RuntimeConfig
from unirun.errors import ConfigError
from unirun.host import Host
from unirun.ladder import LADDERS, Request, decide


@given(requests, configs(), hosts)
def test_same_input_same_output(request_: Request, config: RuntimeConfig, host: Host) -> None:
    assert decide(request_, config, host) == decide(request_, config, host)


@given(requests, configs(), hosts)
def test_every_rung_is_tried_or_rejected_with_a_reason(request_: Request, config: RuntimeConfig, host: Host) -> None:
    plan = decide(request_, config, host)
    assert sorted([*plan.rungs, *(f.backend for f in plan.rejected)]) == sorted(plan.ladder)
    assert [rung for rung in plan.ladder if rung in plan.rungs] == list(plan.rungs), "not in the ladder's order"
    for failure in plan.rejected:
        assert failure.message or failure is host.no_processes
        assert failure.stage in ("import", "construct", "start", "bootstrap")
    assert plan.reason


@given(requests, configs(), hosts)
def test_never_picks_what_the_facts_exclude(request_: Request, config: RuntimeConfig, host: Host) -> None:
    plan = decide(request_, config, host)
    if "interpreters" in plan.rungs:
        assert host.interpreters
        assert not host.bootstrapping
        assert host.main != "missing"
        assert config.isolation != "share"
    if "processes" in plan.rungs:
        assert host.no_processes is None
        assert not host.daemonic
        assert not (host.subinterpreter and plan.start_method == "fork")
        assert (host.main != "missing" and host.executable) or plan.start_method == "fork"
    if host.main == "unready":
        assert not {"pipes", "processes"}.intersection(plan.rungs)


@given(requests, configs(), hosts)
def test_a_request_for_shared_memory_never_gets_processes(request_: Request, config: RuntimeConfig, host: Host) -> None:
    plan = decide(request_, config, host)
    if plan.flavor in ("threads", "none"):
        assert not {"processes", "pipes", "interpreters"}.intersection(plan.rungs)
    if plan.flavor == "none":
        assert plan.rungs == ("inline",)


@given(requests, configs(), hosts)
def test_an_explicit_flavor_beats_hints_and_flags(request_: Request, config: RuntimeConfig, host: Host) -> None:
    plan = decide(request_, config, host)
    if request_.flavor != "auto":
        assert plan.flavor == request_.flavor
    elif config.force_process:
        assert plan.flavor == "processes"
    elif config.force_threads:
        assert plan.flavor == "threads"
    elif config.cpu_bound:
        assert plan.flavor == ("processes" if host.gil else "threads")
    else:
        assert plan.flavor == "threads"


@given(requests, configs(), hosts)
def test_without_a_ladder_of_ones_own_inline_always_serves(
    request_: Request, config: RuntimeConfig, host: Host
) -> None:
    plan = decide(request_, config, host)
    if config.ladder is None:
        without = not host.interpreters or plan.start_method == "fork" or config.isolation == "share"
        left_out = {"interpreters"} if plan.flavor == "processes" and without else set()
        assert sorted(plan.ladder) == sorted({*LADDERS[plan.flavor]} - left_out)
        assert plan.rungs[-1] == "inline"
    else:
        assert set(plan.ladder) <= {*config.ladder, *LADDERS[plan.flavor]}


@given(requests, configs(), hosts)
def test_the_stdlibs_pool_is_first_for_its_drop_in(request_: Request, config: RuntimeConfig, host: Host) -> None:
    """Unless something is asked of it that it cannot do."""
    ladder = decide(request_, config, host).ladder
    if config.ladder is None and "pipes" in ladder:
        more = config.task_timeout is not None or config.on_crash is not None or config.worker_logs is True
        assert (ladder.index("processes") < ladder.index("pipes")) == (request_.dropin and not more)


@given(requests, configs(), hosts)
def test_workers_by_precedence(request_: Request, config: RuntimeConfig, host: Host) -> None:
    most = 61 if host.platform == "win32" else 10_000
    default = None if request_.dropin else min(host.usable_cpus or 1, most)
    expected = request_.max_workers or config.max_workers or default
    assert decide(request_, config, host).workers == expected


SOLVE = """
import pickle, sys
from unirun.ladder import decide
cases = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps([decide(*case) for case in cases]))
"""


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_another_process_with_another_hash_seed_decides_the_same(seed: str) -> None:
    cases: list[tuple[Request, RuntimeConfig, Host]] = []

    @settings(max_examples=200, database=None, derandomize=True)
    @given(requests, configs(), hosts)
    def collect(request_: Request, config: RuntimeConfig, host: Host) -> None:
        cases.append((request_, config, host))

    collect()
    answer = subprocess.run(
        [sys.executable, "-c", SOLVE],
        input=pickle.dumps(cases),
        capture_output=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(unirun.ladder.__file__).parents[1])},
    )
    assert pickle.loads(answer.stdout) == [decide(*case) for case in cases]


def test_decide_can_reach_nothing_but_its_arguments() -> None:
    """The module imports no clock, environment, random or probing function."""
    tree = ast.parse(Path(unirun.ladder.__file__).read_text())
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert imported == {
        ("__future__", "annotations"),
        ("errno", "errno"),
        ("typing", "Final"),
        ("unirun.config", "FLAVORS"),
        ("unirun.config", "OWN_LADDER"),
        ("unirun.config", "RuntimeConfig"),
        ("unirun.config", "check_choice"),
        ("unirun.errors", "ConfigError"),
        ("unirun.host", "Host"),
        ("unirun.refusal", "Failure"),
        ("unirun.values", "Value"),
    }


WINDOWS = Host(
    implementation="cpython",
    version="3.13.0",
    platform="win32",
    gil=True,
    usable_cpus=4,
    start_methods=("spawn",),
    default_start_method="spawn",
    no_processes=None,
    daemonic=False,
    bootstrapping=False,
    subinterpreter=False,
    interpreters=False,
    main="importable",
    executable=True,
)


def test_a_start_method_that_the_platform_lacks_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"start_method='fork' is not accepted: use 'spawn'"):
        decide(Request(flavor="processes", origin="Run"), RuntimeConfig(start_method="fork"), WINDOWS)


@pytest.mark.parametrize(
    ("platform", "methods"), [("win32", ("spawn",)), ("emscripten", ("fork",)), ("wasi", ("fork",)), ("linux", ())]
)
def test_where_there_are_no_processes_as_on_unix(platform: str, methods: tuple[str, ...]) -> None:
    """Or no multiprocessing: nothing of the pool over pipes is imported."""
    host = WINDOWS.replace(
        platform=platform, start_methods=methods, default_start_method=methods[0] if methods else None
    )
    plan = decide(Request(flavor="processes", origin="Run"), RuntimeConfig(), host)
    assert "pipes" in plan.ladder
    assert "pipes" not in plan.rungs
