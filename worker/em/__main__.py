"""`python -m leash.worker.em …` is `leash em …`."""

import sys

from leash.ps.cli import main

if __name__ == "__main__":
    main(["em", *sys.argv[1:]])
