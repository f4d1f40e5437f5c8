# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the collection importable from the checkout, for every test."""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "collections"))
