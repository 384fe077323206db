"""Functions of which coverage sees nothing but in workers."""
# mypy: ignore-errors


def work(n):
    if n > 3:
        return n * n
    return -n


def prepare():
    global prepared
    prepared = True
