"""`python -m tests.simulation`: see command.py."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from simulation.command import main

    sys.exit(main())
