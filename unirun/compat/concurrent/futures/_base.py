"""``concurrent.futures._base``, as it is."""

import concurrent.futures._base as _original

from unirun.compat.surface import surface as _surface

__getattr__, __dir__ = _surface(__name__, _original, {})
