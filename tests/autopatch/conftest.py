"""An environment with the hook, installed from wheels: made once, since that takes seconds."""

from pathlib import Path

import pytest

from tests.autopatch import venvs


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of both wheels, built from this checkout."""
    return venvs.build_wheels(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session")
def hooked(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> venvs.Venv:
    """Return an environment of the running interpreter with ``unirun[autopatch]``."""
    venv = venvs.create(tmp_path_factory.mktemp("hooked") / "venv")
    venvs.install(venv, "unirun[autopatch]", find_links=wheels)
    return venv


@pytest.fixture(scope="session")
def sdists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of both sdists, built from this checkout."""
    return venvs.build_sdists(tmp_path_factory.mktemp("packed"))
