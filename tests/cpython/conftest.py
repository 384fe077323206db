"""The wheels are those that the tests of the hook build."""

from tests.autopatch.conftest import wheels

__all__ = ["wheels"]
