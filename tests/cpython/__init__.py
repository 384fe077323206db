"""CPython's own tests of what the hook replaces, with the hook on."""
