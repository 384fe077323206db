"""The hook and its companion distribution."""
