# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the collection importable from the checkout, for every test."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Iterator

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "collections"))


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """What a test leaves to the next: the host's tool sets a umask of its own, for its whole process."""
    before = os.umask(0o022)
    yield
    os.umask(before)
