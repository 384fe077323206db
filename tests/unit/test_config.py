"""Settings: what is accepted, what each variable means, and which source wins."""

import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from unirun import ConfigError, Run, RuntimeConfig, configure
from unirun.config import compat_mode, resolve

VARIABLES: list[tuple[str, str, str, Any]] = [
    ("UNIRUN_CPU_BOUND", "1", "cpu_bound", True),
    ("UNIRUN_CPU_BOUND", "no", "cpu_bound", False),
    ("UNIRUN_IO_BOUND", "on", "io_bound", True),
    ("UNIRUN_FORCE_PROCESS", "true", "force_process", True),
    ("UNIRUN_FORCE_THREADS", "YES", "force_threads", True),
    ("UNIRUN_MAX_WORKERS", "7", "max_workers", 7),
    ("UNIRUN_START_METHOD", "spawn", "start_method", "spawn"),
    ("UNIRUN_START_METHOD", "Spawn", "start_method", "spawn"),
    ("UNIRUN_DOWNGRADE", "error", "downgrade", "error"),
    ("UNIRUN_DOWNGRADE", "ERROR", "downgrade", "error"),
    ("UNIRUN_LADDER", "threads, inline", "ladder", ("threads", "inline")),
    ("UNIRUN_LADDER", "Threads,", "ladder", ("threads",)),
    ("UNIRUN_TRACE", "stderr", "trace", "stderr"),
    ("UNIRUN_TRACE", "STDERR", "trace", "stderr"),
    ("UNIRUN_TRACE", "Trace.jsonl", "trace", "Trace.jsonl"),
    ("UNIRUN_REUSE", "yes", "reuse", True),
]


@pytest.mark.parametrize(("variable", "text", "field", "value"), VARIABLES)
def test_each_variable_sets_its_field(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, field: str, value: object
) -> None:
    monkeypatch.setenv(variable, text)
    assert getattr(resolve(), field) == value


@pytest.mark.parametrize("variable", sorted({v for v, *_ in VARIABLES}))
def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    plain = resolve()
    monkeypatch.setenv(variable, " ")
    assert resolve() == plain


@pytest.mark.parametrize(
    ("variable", "text", "accepted"),
    [
        ("UNIRUN_CPU_BOUND", "maybe", "use 1 or 0"),
        ("UNIRUN_MAX_WORKERS", "0", "at least 1"),
        ("UNIRUN_MAX_WORKERS", "-3", "at least 1"),
        ("UNIRUN_MAX_WORKERS", "many", "at least 1"),
        ("UNIRUN_MAX_WORKERS", "9" * 5000, "at least 1"),
        ("UNIRUN_START_METHOD", "clone", "'fork', 'spawn', 'forkserver'"),
        ("UNIRUN_DOWNGRADE", "loud", "'warn', 'silent', 'error'"),
        ("UNIRUN_LADDER", "threads,rockets", "'processes', 'pipes', 'interpreters', 'threads', 'inline'"),
        ("UNIRUN_LADDER", "threads,threads", "each once"),
        ("UNIRUN_LADDER", ",", "one or more"),
        ("UNIRUN_TRACE", "1", '"stderr" or the path'),
        ("UNIRUN_TRACE", "True", '"stderr" or the path'),
        ("UNIRUN_TRACE", "stdout", '"stderr" or the path'),
    ],
)
def test_a_bad_variable_names_itself_its_value_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, accepted: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError) as caught:
        resolve()
    assert caught.value.name == variable
    assert variable in str(caught.value)
    assert text.split(",")[0] in str(caught.value)
    assert accepted in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_the_compat_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compat_mode() == "managed"
    monkeypatch.setenv("UNIRUN_COMPAT_MODE", "passthrough")
    assert compat_mode() == "passthrough"
    monkeypatch.setenv("UNIRUN_COMPAT_MODE", "Sometimes")
    with pytest.raises(ConfigError, match=r"UNIRUN_COMPAT_MODE='Sometimes' .*'managed', 'passthrough'"):
        compat_mode()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"cpu_bound": 1}, "cpu_bound"),
        ({"force_process": True, "force_threads": True}, "force_process"),
        ({"cpu_bound": True, "io_bound": True}, "cpu_bound"),
        ({"max_workers": 0}, "max_workers"),
        ({"max_workers": True}, "max_workers"),
        ({"max_workers": 2.0}, "max_workers"),
        ({"start_method": "thread"}, "start_method"),
        ({"downgrade": True}, "downgrade"),
        ({"isolation": "deep"}, "isolation"),
        ({"ladder": "threads"}, "ladder"),
        ({"ladder": ()}, "ladder"),
        ({"ladder": ("pipe",)}, "ladder"),
        ({"trace": ""}, "trace"),
        ({"trace": True}, "trace"),
        ({"trace": "1"}, "trace"),
        ({"trace": b"trace.jsonl"}, "trace"),
        ({"ladder": [[]]}, "ladder"),
        ({"task_timeout": 0}, "task_timeout"),
        ({"task_timeout": 10**400}, "task_timeout"),
    ],
)
def test_a_bad_field_is_refused_by_name(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RuntimeConfig(**fields)
    assert caught.value.name == name
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), copy.value) == (ConfigError, str(caught.value), caught.value.value)


def test_what_a_configuration_is_made_of() -> None:
    assert RuntimeConfig(ladder=["threads"]).ladder == ("threads",)  # type: ignore[arg-type]
    assert RuntimeConfig(trace=Path("trace.jsonl")).trace == "trace.jsonl"  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^RuntimeConfig takes its fields by keyword, not 2$"):
        RuntimeConfig(2)  # type: ignore[call-arg, arg-type]
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'workers'; its fields are .*max_workers"):
        configure(workers=2)


def test_a_start_method_that_the_platform_lacks_is_a_bad_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the hook leaves the program alone. A configuration may be one for several platforms; see ``decide``."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("UNIRUN_START_METHOD", "fork")
    with pytest.raises(ConfigError, match="UNIRUN_START_METHOD='fork' is not accepted: use 'spawn'"):
        resolve()
    monkeypatch.setenv("UNIRUN_START_METHOD", "spawn")
    assert resolve().start_method == "spawn"
    assert RuntimeConfig(start_method="fork").start_method == "fork"


def test_both_force_variables_at_once_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIRUN_FORCE_PROCESS", "1")
    monkeypatch.setenv("UNIRUN_FORCE_THREADS", "yes")
    with pytest.raises(ConfigError, match=r"UNIRUN_FORCE_PROCESS='1' .*UNIRUN_FORCE_THREADS='yes'"):
        resolve()


def test_precedence_argument_config_configured_environment_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve().max_workers is None
    monkeypatch.setenv("UNIRUN_MAX_WORKERS", "2")
    assert resolve().max_workers == 2
    configure(max_workers=3)
    assert resolve().max_workers == 3
    given = RuntimeConfig(max_workers=4)
    assert resolve(given).max_workers == 4
    assert resolve(given, max_workers=5).max_workers == 5
    with Run(flavor="threads", config=given, max_workers=5) as executor:
        assert executor.decision.workers == 5


def test_a_pair_is_one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a higher source turns on is not contradicted by a lower one."""
    monkeypatch.setenv("UNIRUN_FORCE_THREADS", "1")
    resolved = resolve(RuntimeConfig(force_process=True))
    assert (resolved.force_process, resolved.force_threads) == (True, False)
    resolved = resolve(RuntimeConfig(force_threads=False))
    assert (resolved.force_process, resolved.force_threads) == (False, False)


def test_fields_of_a_subclass_are_the_programs_own() -> None:
    class Settings(RuntimeConfig):
        region: str = "eu"

    settings = Settings(max_workers=3, region="us")
    assert resolve(settings) == resolve(RuntimeConfig(max_workers=3))
    try:
        configure(settings)
        assert resolve().max_workers == 3
        assert configure(max_workers=4) == settings
    finally:
        configure()
    with Run(flavor="threads", config=settings) as executor:
        assert executor.submit(int, "3").result() == 3


def test_configure_returns_what_was_and_forgets_without_arguments() -> None:
    first = configure(max_workers=3)
    assert first == RuntimeConfig()
    assert configure(RuntimeConfig(downgrade="silent"), max_workers=4) == RuntimeConfig(max_workers=3)
    assert configure() == RuntimeConfig(downgrade="silent", max_workers=4)
    assert resolve().max_workers is None
    with pytest.raises(TypeError, match="RuntimeConfig"):
        configure({"max_workers": 2})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="workers"):
        configure(workers=2)


def test_an_unknown_variable_is_pointed_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIRUN_MAXWORKERS", "3")
    with pytest.warns(RuntimeWarning, match="UNIRUN_MAXWORKERS means nothing.*UNIRUN_MAX_WORKERS"):
        resolve()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve()


def test_a_config_is_a_value() -> None:
    config = RuntimeConfig(ladder=["threads"])  # type: ignore[arg-type]
    assert config.ladder == ("threads",)
    assert hash(config) == hash(pickle.loads(pickle.dumps(config)))
    with pytest.raises(AttributeError):
        config.max_workers = 3  # type: ignore[misc]
