"""``concurrent.futures.interpreter``, as it is; Python 3.14 and later."""

import concurrent.futures.interpreter as _original

from unirun.compat.surface import surface as _surface

__getattr__, __dir__ = _surface(__name__, _original, {})
