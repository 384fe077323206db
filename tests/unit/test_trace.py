"""Decisions: what they say, who hears of them, and where the warning points."""

import json
import logging
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.tasks import square
from unirun import (
    DecisionTrace,
    DowngradeError,
    DowngradeWarning,
    Run,
    RuntimeConfig,
    configure,
    last_decision,
    observe_decisions,
    reset,
)
from unirun import trace as tracing
from unirun.compat.concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from unirun.refusal import Failure

DECISION = DecisionTrace(
    origin="ProcessPoolExecutor",
    name=None,
    asked="processes",
    flavor="processes",
    ladder=("processes", "threads", "inline"),
    refused=(
        Failure(
            backend="processes",
            stage="construct",
            error="OSError",
            errno=38,
            message="[Errno 38] Function not implemented",
        ),
    ),
    backend="threads",
    workers=4,
    start_method=None,
    short=None,
    reason="processes asked for",
    settled=True,
    where="app.py:7",
)

#: With these a request for interpreters is served by another rung, whatever the Python: they cannot share objects.
REFUSED = RuntimeConfig(isolation="share")


def test_a_decision_in_words() -> None:
    assert DECISION.render() == (
        "ProcessPoolExecutor runs in threads (4 workers); processes asked for; "
        "processes refused (OSError: [Errno 38] Function not implemented, at construct); app.py:7"
    )
    assert DECISION.warning().startswith(
        "ProcessPoolExecutor runs in threads (4 workers): "
        "processes refused (OSError: [Errno 38] Function not implemented, at construct). UNIRUN_DOWNGRADE=error raises"
    )
    assert DECISION.downgraded


def test_a_decision_as_json_and_as_a_pickle() -> None:
    read = json.loads(json.dumps(DECISION.as_dict()))
    assert read["refused"][0] == {
        "backend": "processes",
        "stage": "construct",
        "error": "OSError",
        "errno": 38,
        "message": "[Errno 38] Function not implemented",
    }
    assert read["backend"] == "threads"
    assert read["downgraded"] is True
    for value in (DECISION, DowngradeWarning(DECISION), DowngradeError(DECISION)):
        copy = pickle.loads(pickle.dumps(value))
        assert type(copy) is type(value)
        assert str(copy) == str(value)
    assert pickle.loads(pickle.dumps(DowngradeError(DECISION))).decision == DECISION


def test_one_decision_per_pool_reaches_every_listener() -> None:
    mine: list[DecisionTrace] = []
    with observe_decisions() as seen:
        with Run(flavor="threads", max_workers=2, name="x", trace=mine.append) as executor:
            assert last_decision() is not None
            assert not last_decision().settled  # type: ignore[union-attr]
            assert [executor.submit(square, n).result() for n in range(3)] == [0, 1, 4]
        with ThreadPoolExecutor(3):
            pass
    assert [(d.origin, d.backend, d.workers, d.settled) for d in seen] == [
        ("Run", "threads", 2, True),
        ("ThreadPoolExecutor", "threads", 3, False),
    ]
    assert mine == seen[:1]
    assert mine[0].name == "x"
    with Run(flavor="none"):
        pass
    assert len(seen) == 2, "a listener outlived its block"
    reset()
    assert last_decision() is None


def test_a_listener_that_fails_is_logged_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def listener(_: DecisionTrace) -> None:
        raise ZeroDivisionError

    with Run(flavor="none", trace=listener) as executor:
        assert executor.submit(square, 3).result() == 9
    assert any("listener" in r.getMessage() and r.levelno == logging.ERROR for r in caplog.records)


def test_what_cannot_be_called_is_no_listener() -> None:
    with pytest.raises(TypeError, match="5 cannot be called"):
        tracing.add_listener(5)  # type: ignore[arg-type]


def test_removing_a_stranger_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a listener"):
        tracing.remove_listener(print)


def test_every_decision_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A downgrade so that it is seen; what went as asked so that it is not, in a program that shows what is logged."""
    with caplog.at_level(logging.DEBUG, logger="unirun"):
        with Run(flavor="none") as executor:
            executor.submit(square, 1)
        with Run(flavor="interpreters", config=REFUSED.replace(downgrade="silent")) as executor:
            executor.submit(square, 1)
    told = [(r.levelno, r.getMessage().partition(" by ")[0][:20]) for r in caplog.records if r.name == "unirun"]
    assert told == [(logging.DEBUG, "Run runs inline, in "), (logging.INFO, "Run runs in pipes")]


def test_half_a_start_is_logged_as_a_downgrade_is(caplog: pytest.LogCaptureFixture) -> None:
    short = DECISION.refused[0]
    with caplog.at_level(logging.INFO, logger="unirun"):
        tracing.publish(DECISION.replace(refused=(), backend="processes", workers=1, short=short), target=None)
    (record,) = caplog.records
    assert "fewer workers than asked for started: OSError" in record.getMessage()


def test_trace_true_and_the_trace_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Run(flavor="none", trace=True) as executor:
        executor.submit(square, 1)
    assert capsys.readouterr().err.startswith("unirun: Run runs inline, in the calling thread; none asked for")
    file = tmp_path / "trace.jsonl"
    monkeypatch.setenv("UNIRUN_TRACE", str(file))
    for _ in range(2):
        with Run(flavor="none") as executor:
            executor.submit(square, 1)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["origin"], line["backend"]) for line in lines] == [("Run", "inline")] * 2
    assert capsys.readouterr().err == ""


def test_a_trace_that_cannot_be_written_is_logged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("UNIRUN_TRACE", str(tmp_path / "no" / "such" / "folder"))
    with Run(flavor="none") as executor:
        assert executor.submit(square, 4).result() == 16
    assert "cannot write its trace" in caplog.text


def test_the_warning_points_at_the_users_line_once_per_pool() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Run(flavor="interpreters", config=REFUSED, max_workers=1) as executor:
            here = sys._getframe().f_lineno - 1
            assert list(executor.map(square, range(4))) == [0, 1, 4, 9]
    caught = [w for w in caught if not issubclass(w.category, DeprecationWarning)]
    assert [(w.filename, w.lineno, w.category) for w in caught] == [(__file__, here, DowngradeWarning)]
    decision = caught[0].message.decision  # type: ignore[union-attr]
    assert decision == last_decision()
    assert [f.backend for f in decision.refused] == ["interpreters"]


def test_a_program_s_tests_may_replace_what_tells_of_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_getframe", None)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(square, 3).result() == 9


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_silent_says_nothing_and_error_raises_before_any_task(tmp_path: Path) -> None:
    with Run(flavor="interpreters", config=REFUSED.replace(downgrade="silent"), max_workers=1) as executor:
        assert executor.submit(square, 2).result() == 4
    with (
        pytest.raises(
            DowngradeError,
            match=r"interpreters refused .* at (import|construct).*pipes, processes, threads, inline not tried",
        ),
        Run(flavor="interpreters", config=REFUSED.replace(downgrade="error")),
    ):
        pytest.fail("the block ran")


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_warning_made_an_error_runs_nothing_and_loses_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with warnings.catch_warnings():
        warnings.simplefilter("error", DowngradeWarning)
        with Run(flavor="interpreters", config=REFUSED, max_workers=1) as executor:
            for _ in range(2):
                with pytest.raises(DowngradeWarning):
                    executor.submit(Path.touch, mark)
            assert not mark.exists()
            assert not executor.decision.settled
            warnings.simplefilter("ignore", DowngradeWarning)
            executor.submit(Path.touch, mark).result()
    assert mark.exists()


def test_a_decision_that_nobody_accepted_is_told_at_the_end() -> None:
    with warnings.catch_warnings(), observe_decisions() as seen:
        warnings.simplefilter("error", DowngradeWarning)
        with Run(flavor="interpreters", config=REFUSED, max_workers=1) as executor, pytest.raises(DowngradeWarning):
            executor.submit(square, 2)
    assert [decision.settled for decision in seen] == [False]


def test_the_seeds_words_about_the_warning_hold() -> None:
    assert issubclass(DowngradeWarning, RuntimeWarning)
    configure(ladder=("threads",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ProcessPoolExecutor(1) as pool:  # a ladder of one's own is no downgrade
            assert pool.submit(square, 3).result() == 9
    assert pool.decision.backend == "threads"


def test_python_dash_c_is_the_users_line() -> None:
    code = (
        "import warnings\n"
        "from unirun import Run, RuntimeConfig\n"
        "with Run(flavor='interpreters', config=RuntimeConfig(isolation='share'), max_workers=1) as e:\n"
        "    print(e.submit(abs, -3).result())\n"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "always::RuntimeWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(Path(tracing.__file__).parents[1]), "PATH": ""},
    )
    assert answer.stdout == "3\n", answer.stderr
    assert answer.stderr.startswith("<string>:3: DowngradeWarning: Run runs in pipes")


def test_a_log_handler_that_opens_a_pool_is_told_nothing_of_it() -> None:
    seen: list[str] = []

    class Shipping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with ThreadPoolExecutor(1) as pool:
                seen.append(pool.submit(record.getMessage).result(60))

    logger, handler = logging.getLogger("unirun"), Shipping()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        with Run(flavor="threads") as pool:
            assert pool.submit(abs, -3).result(60) == 3
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert len(seen) == 1


def test_a_log_handler_that_raises_does_not_fail_the_submit(capsys: pytest.CaptureFixture[str]) -> None:
    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise LookupError("no such place")

    logger, handler = logging.getLogger("unirun"), Failing()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        with Run(flavor="threads") as pool:
            assert pool.submit(abs, -3).result(60) == 3
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert "LookupError: no such place" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["stderr", "nowhere/at/all.jsonl"])
def test_a_trace_that_cannot_be_written_costs_no_task(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a log handler that raises when it is told of it, or whatever stands for standard error."""

    class Mute:
        def write(self, text: str) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            raise LookupError(name)

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise LookupError(record.getMessage())

    handler = Raising()
    logging.getLogger().addHandler(handler)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr("sys.stderr", Mute())
    monkeypatch.setenv("UNIRUN_TRACE", target)
    try:
        with Run(flavor="threads") as executor:
            assert executor.submit(square, 3).result() == 9
    finally:
        logging.getLogger().removeHandler(handler)
