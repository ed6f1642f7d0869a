"""`python -m ps …` is `leash server …`."""

import sys

from leash.ps.cli import main

if __name__ == "__main__":
    main(["server", *sys.argv[1:]])
