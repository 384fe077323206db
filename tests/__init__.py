"""The tests; `tests.hosts` is also a tool to run any command on a host that refuses things."""
