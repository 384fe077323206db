"""Drop-ins for stdlib packages, under their own names."""
