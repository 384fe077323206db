"""What the companion is made of stands in unirun's checkout, and in the companion's own sdist: take it from either."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: Each file of the distribution, by where it is in the checkout, seen from here.
FILES = {"_unirun_autopatch.py": "../unirun/autopatch/hook.py", "unirun_autopatch.pth": "../unirun_autopatch.pth"}


class TwoFiles(BuildHookInterface):  # type: ignore[misc]
    """Adds ``FILES`` to what is built: wheel, editable wheel or sdist."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        for name, in_checkout in FILES.items():
            unpacked = Path(self.root, name)  # an sdist has them at its root: `../` is gone where it is unpacked
            source = unpacked if unpacked.exists() else Path(self.root, in_checkout)
            build_data["force_include"][str(source)] = name
