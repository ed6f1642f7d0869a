import os

import pytest
from hypothesis import settings

from leash.ps import _core

# Under the sanitizers everything takes several times as long.
settings.register_profile("sanitize", max_examples=15)

if os.environ.get("LEASH_EXPECT_SANITIZED") and not _core.build_info()["sanitized"]:
    raise pytest.UsageError(f"expected a sanitized leash.ps._core, got {_core.__file__}")
