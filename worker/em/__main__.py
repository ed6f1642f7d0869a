"""`python -m worker.em …` is `leash em …`."""

import sys

from ps.cli import main

if __name__ == "__main__":
    main(["em", *sys.argv[1:]])
