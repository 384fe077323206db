"""stress tests."""
