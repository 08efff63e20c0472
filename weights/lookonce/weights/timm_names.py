"""Names of timm's models, read from its source files, because importing timm takes seconds."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

from lookonce.shared.errors import UsageError
from lookonce.shared.names import close_names, did_you_mean

_REGISTERED = re.compile(rb"^@register_model\s*\n(?:@[^\n]*\n)*def\s+(\w+)", re.MULTILINE)
_FEWEST = 500
"""timm registers more than a thousand models; fewer names mean that its sources have changed their form."""


def refuse_unknown_model(name: str, kind: str) -> None:
    """Refuse a name that the installed timm certainly does not have; timm checks doubtful names later.

    Args:
        name: ``NAME`` or ``NAME.TAG``; the tag is ignored.
        kind: kind of the model, for the message, such as ``student``.

    Raises:
        UsageError: no source file of timm's models contains the name; the message lists similar names.
    """
    architecture = name.partition(".")[0]
    names, sources = registered_models()
    if len(names) < _FEWEST or architecture.encode() in sources:  # sources also contain names that timm renamed
        return
    raise UsageError(f"{kind}: timm has no model {architecture!r}{did_you_mean(close_names(architecture, names, 5))}")


@functools.cache
def registered_models() -> tuple[tuple[str, ...], frozenset[bytes]]:
    """Names of the models that timm registers, sorted, and every word of their source files.

    Both are empty if timm is not installed as plain files.
    """
    found = importlib.util.find_spec("timm")
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    texts = [path.read_bytes() for folder in folders for path in Path(folder, "models").glob("*.py")]
    names = {name.decode() for text in texts for name in _REGISTERED.findall(text)}
    return tuple(sorted(names)), frozenset(word for text in texts for word in re.findall(rb"\w+", text))
