"""The end of the process, and whether it was Ctrl-C that brought it about: then pending work is not done any more."""

import sys

__all__ = ["interrupted"]


def interrupted() -> bool:
    """Tell whether the error that ends the program is a KeyboardInterrupt.

    In an interactive session it is not known: there it is what was last shown, at any time.
    """
    last = None if hasattr(sys, "ps1") else getattr(sys, "last_type", None)
    return issubclass(last or type(None), KeyboardInterrupt)
