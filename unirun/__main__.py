"""Makes ``python -m unirun`` the command line."""

import sys

from unirun.cli import main

if __name__ == "__main__":  # a worker process imports this module too
    sys.exit(main())
