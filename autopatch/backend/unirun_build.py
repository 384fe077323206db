"""hatchling, and one thing more: it tells pip that the companion, which the extra asks for, is in the checkout.

``unirun[autopatch]`` requires ``unirun-autopatch`` of the same version. Where both come from an index, or from a folder
of wheels, that is all. In a checkout both are there too, but pip resolves by the metadata alone, and those that end in
a wheel must not name a folder. So here, and only in a checkout, ``prepare_metadata_for_build_*`` answer with a direct
reference to the companion's folder where the wheel has a plain pin. (uv reads ``tool.uv.sources`` instead.)

PEP 517 wants a wheel to have the metadata that were prepared. In a checkout it has not, by this one requirement, and no
more is lost than that: what pip then installs from the folder is of the very name and version that the wheel pins.

Guarantees:
    What is built, sdist, wheel or editable wheel, is hatchling's to the byte, and names no folder.
    Metadata prepared from an sdist, unpacked or not, are the wheel's.
"""

import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

from hatchling.build import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

COMPANION = Path(__file__).resolve().parents[1]
#: Every sdist has this file at its root, and no checkout has it.
SDIST = COMPANION.parent / "PKG-INFO"


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: "dict[str, object] | None" = None
) -> str:
    return _prepare(build_wheel, metadata_directory)


def prepare_metadata_for_build_editable(
    metadata_directory: str, config_settings: "dict[str, object] | None" = None
) -> str:
    return _prepare(build_editable, metadata_directory)


def _prepare(build: Callable[[str], str], metadata_directory: str) -> str:
    """Take the metadata from a wheel.

    hatchling has functions for this, but hides them from pip (``PIP_BUILD_TRACKER``): what build hooks add to a wheel
    would not be in their answer. pip builds a wheel then, and reads its metadata; so does this, with the same result.
    """
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(Path(folder, build(folder))) as wheel:
        members = [name for name in wheel.namelist() if name.split("/")[0].endswith(".dist-info")]
        wheel.extractall(metadata_directory, members)
    dist_info = members[0].split("/")[0]
    metadata = Path(metadata_directory, dist_info, "METADATA")
    text = metadata.read_text(encoding="utf-8")
    for plain, direct in _references().items():
        text = text.replace(f"\nRequires-Dist: {plain};", f"\nRequires-Dist: {direct} ;")
    metadata.write_text(text, encoding="utf-8", newline="\n")
    return dist_info


def _references() -> dict[str, str]:
    """Return the direct reference for the pin on the companion, if this is a checkout."""
    if SDIST.exists():  # pip refuses a reference to a folder from what it found on an index
        return {}
    project = tomllib.loads(Path(COMPANION, "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {f"{project['name']}=={project['version']}": f"{project['name']} @ {COMPANION.as_uri()}"}
