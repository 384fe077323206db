"""The pipes backend: what it promises beyond the conformance suite, which it passes as every backend does."""
