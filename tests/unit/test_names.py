"""Unknown names: what was probably meant, and timm's names without timm."""

from __future__ import annotations

import pytest
import timm
from timm.models import _registry

from lookonce.shared.errors import UsageError
from lookonce.shared.names import close_names
from lookonce.weights import timm_names
from lookonce.weights.timm_names import refuse_unknown_model, registered_models


@pytest.mark.parametrize(
    ("typed", "known", "close"),
    [
        ("DeiT_Tiny", ["deit-small", "deit-tiny"], ["deit-tiny"]),
        ("clip", ["eva-clip", "clip-l14-336", "clip-b16", "dino"], ["clip-b16", "clip-l14-336", "eva-clip"]),
        ("int6", ["fp16", "int8", "int4", "int2"], ["int8", "int4", "int2"]),
        ("", ["a"], []),
        ("resnet", ["a", "b"], []),
    ],
)
def test_close_names(typed: str, known: list[str], close: list[str]) -> None:
    assert close_names(typed, known) == close


def test_timm_is_read_as_it_is() -> None:
    """A timm whose sources are written otherwise fails here; until then no name that it has is refused."""
    assert registered_models()[0] == tuple(sorted(timm.list_models()))
    for name in _registry._model_entrypoints:  # those that were renamed, too
        refuse_unknown_model(name, "student")
    refuse_unknown_model("vit_base_patch16_224.dino", "teacher")
    with pytest.raises(UsageError, match=r"student: timm has no model 'vit_bas' \(did you mean vit_base_"):
        refuse_unknown_model("vit_bas", "student")


def test_an_unreadable_timm_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_names, "registered_models", lambda: (("vit_base",), frozenset({b"vit_base"})))
    refuse_unknown_model("anything", "student")
