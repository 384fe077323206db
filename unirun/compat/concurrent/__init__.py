"""Drop-ins for the stdlib's ``concurrent``."""
