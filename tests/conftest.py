"""Fixtures for material beside the project; tests that need it skip with a reason where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real photographs and DeiT-Tiny weights (`../shared/data`, or LOOKONCE_DATA_DIR)."""
    folder = Path(os.environ.get("LOOKONCE_DATA_DIR", SHARED / "data"))
    if not folder.is_dir():
        pytest.skip(f"real test material not found at {folder} (set LOOKONCE_DATA_DIR)")
    return folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Numbers from the released code (`../shared/golden`, or LOOKONCE_GOLDEN_DIR)."""
    folder = Path(os.environ.get("LOOKONCE_GOLDEN_DIR", SHARED / "golden"))
    if not folder.is_dir():
        pytest.skip(f"golden numbers not found at {folder} (set LOOKONCE_GOLDEN_DIR)")
    return folder
