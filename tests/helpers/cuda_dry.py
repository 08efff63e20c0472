"""Whether the checks of a GPU are played on the CPU: few and small, so that none is broken on the day."""

from __future__ import annotations

import os

DRY = os.environ.get("LOOKONCE_CUDA_DRY") == "1"
