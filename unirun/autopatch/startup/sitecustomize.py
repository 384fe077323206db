"""Turns the hook on in each Python that starts below ``python -m unirun run``, which puts this folder on PYTHONPATH.

A Python imports ``sitecustomize`` as it starts. This one leaves nothing behind but a finder on ``sys.meta_path``, as
the line in ``unirun_autopatch.pth`` does, and then makes way for the one that it hides: what that does, its errors, and
that there is none, reach ``site`` as if this one did not exist.

The finder also finds unirun itself, whose folder the program need not have on its path. A child may be any Python, so
this must be readable for all of them, and only acts in one that unirun supports.
"""

import os
import sys

_FOLDER = os.path.dirname(__file__)
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(_FOLDER)))
_HOOK = os.path.join(os.path.dirname(_FOLDER), "hook.py")


def find_spec(name, path=None, target=None):  # type: (str, object, object) -> object
    if name == "unirun":
        return sys.modules["_frozen_importlib_external"].PathFinder.find_spec(name, [_ROOT])
    if name == "_unirun_autopatch" and os.path.exists(_HOOK):
        return sys.modules["_frozen_importlib_external"].spec_from_file_location(name, _HOOK)
    if name not in (
        "concurrent.futures.process",
        "concurrent.futures.thread",
        "concurrent.futures.interpreter",
        "multiprocessing.pool",
        "unirun.process",
        "unirun.thread",
    ):
        return None
    find = getattr(load_hook(), "find_spec", None)
    return find and find(name, path, target)


def load_hook():  # type: () -> object
    # By the name that the companion distribution has it by, as the line in the .pth file does: nobody else imports it.
    # The import system's own lock may be held here. Another thread that imports unirun itself may hold that module's
    # and wait for this one.
    try:
        try:
            import _unirun_autopatch as hook  # type: ignore[import-not-found]
        except ImportError:  # in an archive
            from unirun.autopatch import hook
    except Exception:  # it is broken, or a program has a module of this name: that is no reason to fail here
        return None
    return hook


if sys.version_info >= (3, 11):  # noqa: UP036 - older ones start below a program, too
    if not any(getattr(finder, "name", None) == "unirun_autopatch" for finder in sys.meta_path):
        # As the line in the .pth file makes it; `unirun.autopatch` knows it by its name.
        _finder = type(sys.implementation)(name="unirun_autopatch", by="run", find_spec=find_spec)  # type: ignore[call-arg]
        sys.meta_path.insert(0, _finder)
    for _name in ("concurrent.futures.process", "concurrent.futures.thread"):
        if _name in sys.modules:  # a .pth file has loaded it
            _hook = load_hook()
            _tell, _off = getattr(_hook, "tell", None), getattr(_hook, "switched_off", None)
            if _tell is not None and _off is not None and not _off():
                _tell("loaded", sys.modules[_name])
    if "_UNIRUN_SUMMARY" in os.environ:
        try:
            from unirun.autopatch import summary

            summary.begin()
        except Exception:
            pass

sys.path[:] = [entry for entry in sys.path if entry != _FOLDER]
sys.modules.pop("sitecustomize", None)
__import__("sitecustomize")
