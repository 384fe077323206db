"""One executor contract, crossed with every backend and start method; the stdlib's own pools are the control group."""
