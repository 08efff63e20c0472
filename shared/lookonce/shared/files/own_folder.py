"""Whether the folder of ``--out`` may be written: new, empty, or left by an earlier run of the same kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from lookonce.shared.errors import LookonceError, UsageError
from lookonce.shared.faults.os_errors import ABSENT, access_error
from lookonce.shared.files.atomic import TEMPORARY_MARK
from lookonce.shared.files.lock import LOCK_FILES

MOST_NAMED = 3
"""Foreign files that the message names."""


def has_field(name: str) -> Callable[[Path], bool]:
    """Whether a JSON file has a field; for kinds of folders whose marker others have too, such as ``config.json``.

    A file that is not JSON counts as one that has it: it may be a damaged one of this kind.
    """

    def found(path: Path) -> bool:
        try:
            document = json.loads(path.read_bytes())
        except ABSENT:
            return False
        except OSError as error:
            raise access_error(error, path) from error
        except ValueError:
            return True
        return isinstance(document, dict) and name in document

    return found


def require_own_folder(
    root: Path,
    *,
    kind: str,
    marker: str,
    belongs: Callable[[Path], bool] = Path.is_file,
    error: type[LookonceError] = UsageError,
) -> bool:
    """Refuse a file, and a folder that something else has filled; temporary files and locks do not count.

    Args:
        root: the folder of ``--out``; it need not exist.
        kind: what the folder contains, for the message: ``"a run"``.
        marker: name of the file that every folder of this kind has.
        belongs: whether the marker, which may be missing, is of this kind.
        error: kind of error raised for a folder of something else.

    Returns:
        Whether the folder is of this kind already; False for one that is new or empty.

    Raises:
        LookonceError: of kind ``error``; names what is in the way.
        AccessError: the operating system does not list the folder.

    >>> require_own_folder(Path("/nowhere/run"), kind="a run", marker="config.json")
    False
    """
    expected = f"--out needs a folder that is new, empty, or {kind}"
    if not root.is_dir():
        if root.exists():
            raise error(f"{root}: is a file; {expected}")
        return False
    try:
        names = sorted(path.name for path in root.iterdir())
    except OSError as failed:
        raise access_error(failed, root) from failed
    foreign = [name for name in names if TEMPORARY_MARK not in name and name not in LOCK_FILES]
    if not foreign:
        return False
    if belongs(root / marker):
        return True
    named = ", ".join(foreign[:MOST_NAMED]) + (", ..." if len(foreign) > MOST_NAMED else "")
    raise error(f"{root}: contains other files ({named}) and no {marker} of {kind}; {expected}")
