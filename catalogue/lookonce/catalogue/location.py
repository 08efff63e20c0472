"""Where the catalogue is: a folder of the user, or one that a group shares."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lookonce.shared.errors import UsageError

VARIABLE = "LOOKONCE_CATALOGUE"
NONE = "none"
"""Value of the variable that turns the catalogue off."""


def catalogue_folder() -> Path | None:
    """The folder in LOOKONCE_CATALOGUE, or ``lookonce/catalogue`` in the user's data folder; None: no catalogue.

    Raises:
        UsageError: the variable is a URL or a relative path.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if given == NONE:
        return None
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", given):
        raise UsageError(f"{VARIABLE}={given}: is a URL; expected the path of a folder, or {NONE} for no catalogue")
    if given:
        folder = Path(given).expanduser()
        if not folder.is_absolute():
            raise UsageError(f"{VARIABLE}={given}: expected an absolute path, or {NONE} for no catalogue")
        return folder
    data = os.environ.get("XDG_DATA_HOME", "")
    return (Path(data) if Path(data).is_absolute() else Path.home() / ".local" / "share") / "lookonce" / "catalogue"
