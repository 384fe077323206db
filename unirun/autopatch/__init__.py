"""The hook: existing code gets the managed pools, where it looks for the stdlib's, without an edit."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unirun.aside import disabled as disabled
    from unirun.autopatch.control import Handle as Handle
    from unirun.autopatch.control import Status as Status
    from unirun.autopatch.control import install as install
    from unirun.autopatch.control import status as status
    from unirun.autopatch.control import uninstall as uninstall

__all__ = ["Handle", "Status", "disabled", "install", "status", "uninstall"]

if not TYPE_CHECKING:  # programs under the hook import this package with `concurrent.futures`; they pay for no more

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = "unirun.aside" if name == "disabled" else "unirun.autopatch.control"
        value = getattr(__import__(home, fromlist=[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
