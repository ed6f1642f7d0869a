"""`python -m worker …` is `leash worker …`."""

import sys

from leash.ps.cli import main

if __name__ == "__main__":
    main(["worker", *sys.argv[1:]])
