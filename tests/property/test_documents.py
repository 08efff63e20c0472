"""However a document is mutated, a validator gives problems or accepts it; it never raises anything."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookonce.shared.canonical import digest_document
from lookonce.shared.errors import SchemaError
from lookonce.storage_schemas.manifest import parse_manifest, validate_manifest
from lookonce.storage_schemas.problems import sealed
from lookonce.storage_schemas.receipt import Hole, Receipt, StoredObject, parse_receipt, validate_receipt
from lookonce.storage_schemas.tokens import AllTokens, TopTokens, VisibleTokens

SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
DIGEST = "sha256:" + "a" * 64
RECEIPT = Receipt(
    fingerprint=DIGEST,
    encoding=DIGEST,
    seed=3,
    shard=1,
    first_sample=2,
    samples=2,
    holes=(Hole(sample=3, key="b.jpg", label=0, reason="truncated"),),
    objects=(StoredObject(array="label", path="seed-0003/label/c/1", bytes=16, digest=DIGEST),),
    statistics={"feature_norm": 1.5},
    versions={"lookonce": "0"},
).document()

TOKENS = [AllTokens(), VisibleTokens(mask="attentive", mask_ratio=0.7), TopTokens(share=0.5)]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from([DIGEST, "zarr", "..", "/", "AAAA", "lookonce-cache"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [place for key, value in items for place in [(*path, key), *places(value, (*path, key))]]


def mutated(data: st.DataObject, document: Any) -> Any:
    """One to three places replaced, removed or repeated."""
    document = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        choices = places(document)
        if not choices:
            break
        *path, last = data.draw(st.sampled_from(choices))
        holder = document
        for key in path:
            holder = holder[key]
        match data.draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                holder[last] = data.draw(VALUES)
            case "remove":
                del holder[last]
            case "add" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
            case _:
                holder["added"] = data.draw(VALUES)
    return resealed(document) if data.draw(st.booleans()) else document


def resealed(document: Any) -> Any:
    """With the digests that bind its parts, so that what lies behind them is tried too."""
    if "recipe" in document:
        document = {**document, "fingerprint": digest_document(document["recipe"])}
    return sealed(document)


def check(validate: Any, parse: Any, document: Any) -> None:
    problems = validate(document)
    if problems:
        assert all(str(problem) for problem in problems)
        with pytest.raises(SchemaError, match=r"^here: "):
            parse(document, "here")
    else:
        written = json.loads(json.dumps(parse(document, "here").document()))
        assert written == document


@SETTINGS
@given(data=st.data())
def test_mutated_receipts(data: st.DataObject) -> None:
    check(validate_receipt, parse_receipt, mutated(data, RECEIPT))


@SETTINGS
@given(data=st.data())
def test_mutated_manifests(make_manifest, data: st.DataObject) -> None:
    tokens = data.draw(st.sampled_from(TOKENS))
    document = make_manifest(tokens=tokens).document()
    check(validate_manifest, parse_manifest, mutated(data, json.loads(json.dumps(document))))


@SETTINGS
@given(data=st.data())
def test_mutated_token_subsets(make_manifest, data: st.DataObject) -> None:
    document = make_manifest(tokens=data.draw(st.sampled_from(TOKENS))).document()
    document["recipe"]["tokens"] = mutated(data, document["recipe"]["tokens"])
    check(validate_manifest, parse_manifest, resealed(json.loads(json.dumps(document))))


@SETTINGS
@given(document=VALUES)
def test_any_json_at_all(document: Any) -> None:
    for validate in (validate_manifest, validate_receipt):
        assert validate(document)
