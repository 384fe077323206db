"""Programs that the host tests run, each in a process of its own."""
