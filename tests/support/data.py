"""Where the data sets lie that are too big for the repository."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

needs_mnist = pytest.mark.skipif(
    not (DATA / "MNIST" / "raw").is_dir(), reason="MNIST is not at ../shared/data"
)
