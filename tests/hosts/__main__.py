"""Runs any command on a host of the catalog, to see by hand what a test sees.

python -m tests.hosts                          lists the hosts and whether each can be made here
python -m tests.hosts NAME -- COMMAND ARGS...  runs the command on that host and exits with its status
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from tests.hosts.catalog import HOSTS, find


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say and return the exit status."""
    match list(arguments):
        case []:
            for host in HOSTS.values():
                reason = host.unavailable()
                print(f"{host.name:20} {'yes' if reason is None else f'no: {reason}'}")
                print(f"    {host.description}")
            return 0
        case [name, "--", _, *_]:
            return _become(name, arguments[2:])
        case _:
            return _failed(__doc__ or "")


def _become(name: str, argv: Sequence[str]) -> int:
    try:
        host = find(name)
    except LookupError as error:
        return _failed(str(error))
    reason = host.unavailable()
    if reason is not None:
        return _failed(f"host {name!r} cannot be made here: {reason}")
    command = host.command(argv)
    try:
        os.execvpe(command[0], command, host.environment(os.environ))
    except OSError as error:
        return _failed(f"{command[0]}: {error.strerror}", status=127)


def _failed(message: str, *, status: int = 2) -> int:
    print(message, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
