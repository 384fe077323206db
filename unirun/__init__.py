"""The public names and the modules they live in: each is imported when it is first used, so this costs nothing."""

TYPE_CHECKING = False  # what type checkers look for; `typing` itself costs more than this whole module
if TYPE_CHECKING:
    from unirun import autopatch as autopatch
    from unirun import cli as cli
    from unirun import compat as compat
    from unirun import errors as errors
    from unirun import trace as trace
    from unirun.aio import to_process as to_process
    from unirun.aio import to_thread as to_thread
    from unirun.config import RuntimeConfig as RuntimeConfig
    from unirun.config import configure as configure
    from unirun.errors import BootstrapError as BootstrapError
    from unirun.errors import ConfigError as ConfigError
    from unirun.errors import DowngradeError as DowngradeError
    from unirun.errors import UnirunError as UnirunError
    from unirun.leases import reset as reset
    from unirun.mapping import map as map
    from unirun.mapping import submit as submit
    from unirun.scope import Run as Run
    from unirun.trace import DecisionTrace as DecisionTrace
    from unirun.trace import DowngradeWarning as DowngradeWarning
    from unirun.trace import last_decision as last_decision
    from unirun.trace import observe_decisions as observe_decisions

_HOME = {
    "BootstrapError": "errors",
    "ConfigError": "errors",
    "DecisionTrace": "trace",
    "DowngradeError": "errors",
    "DowngradeWarning": "trace",
    "Run": "scope",
    "RuntimeConfig": "config",
    "UnirunError": "errors",
    "configure": "config",
    "last_decision": "trace",
    "map": "mapping",
    "observe_decisions": "trace",
    "reset": "leases",
    "submit": "mapping",
    "to_process": "aio",
    "to_thread": "aio",
}

#: Modules that people use by `import unirun` alone.
_MODULES = ("autopatch", "cli", "compat", "errors", "trace")

__version__ = "0.2.0"
__all__ = [
    "BootstrapError",
    "ConfigError",
    "DecisionTrace",
    "DowngradeError",
    "DowngradeWarning",
    "Run",
    "RuntimeConfig",
    "UnirunError",
    "configure",
    "last_decision",
    "map",
    "observe_decisions",
    "reset",
    "submit",
    "to_process",
    "to_thread",
]

if not TYPE_CHECKING:  # or a name that does not exist would pass for one that does

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return __import__(f"{__name__}.{name}", fromlist=["__name__"])
        home = _HOME.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(__import__(f"{__name__}.{home}", fromlist=[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


def _for_bundlers() -> None:  # never called
    """Say in their words to those that make one file of a program what is imported here by names made up at run time.

    They read the code, and skip what is only for type checkers.
    """
    import unirun.aio
    import unirun.autopatch.control
    import unirun.autopatch.hook
    import unirun.backends.standin
    import unirun.cli
    import unirun.compat.concurrent.futures._base
    import unirun.compat.concurrent.futures.interpreter
    import unirun.compat.concurrent.futures.process
    import unirun.compat.concurrent.futures.thread
    import unirun.config
    import unirun.errors
    import unirun.leases
    import unirun.mapping
    import unirun.process
    import unirun.scope
    import unirun.thread
    import unirun.trace  # noqa: F401
