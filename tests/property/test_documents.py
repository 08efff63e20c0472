"""However a document is mutated, a validator gives problems or accepts it; it never raises anything."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lookonce.shared.canonical import digest_document
from lookonce.shared.errors import SchemaError
from lookonce.storage_schemas.arrays import MOMENTS, target_shape
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.manifest import parse_manifest, validate_manifest
from lookonce.storage_schemas.precision import get_precision
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
    document = make_manifest(tokens=tokens, moments=data.draw(st.sampled_from(MOMENTS))).document()
    check(validate_manifest, parse_manifest, mutated(data, json.loads(json.dumps(document))))


def parsed(document: Any, parameters: Any) -> Any:
    """The manifest with this object of its encoding, or the message of what is wrong with it."""
    try:
        return parse_manifest(document, "here", lambda _: parameters)
    except SchemaError as error:
        return str(error)


@SETTINGS
@given(data=st.data())
def test_mutated_manifests_with_an_object(make_manifest, data: st.DataObject) -> None:
    """Those of schema version 2; the object is whole, and its parameters are those of the manifest or are refused."""
    tokens, moments = (data.draw(st.sampled_from(choices)) for choices in (TOKENS, MOMENTS))
    manifest = make_manifest(tokens=tokens, moments=moments, precision="klt1")
    document = mutated(data, json.loads(json.dumps(manifest.document())))
    found = parsed(document, manifest.encoding.parameters)
    if validate_manifest(document):
        assert found.startswith("here: ")
    elif isinstance(found, str):
        assert found.startswith("here: the object encoding/")
        assert found.endswith("restore it from a copy")
    else:
        encoding = {**document["encoding"], "object_sha256": found.document()["encoding"]["object_sha256"]}
        assert json.loads(json.dumps(found.document())) == sealed({**document, "encoding": encoding})


def mutated_array(data: st.DataObject, values: NDArray[Any]) -> NDArray[Any]:
    """Another shape, dtype, or value."""
    match data.draw(st.sampled_from(["value", "shorter", "longer", "dimension", "dtype"])):
        case "shorter":
            return values[..., : data.draw(st.integers(0, values.shape[-1] - 1))]
        case "longer":
            return np.concatenate([values, values[: data.draw(st.integers(1, 3))]])
        case "dimension":
            return data.draw(st.sampled_from([values[None], values.reshape(-1), values[0]]))
        case "dtype":
            return values.astype(data.draw(st.sampled_from(["<f2", "<f4", "<i4", "|u1"])))
        case _:
            values = values.copy()
            extremes = [0, 1, 7, 13, 100, 255] + ([-1, 1e4, np.nan, np.inf] if values.dtype.kind == "f" else [])
            values.flat[data.draw(st.integers(0, values.size - 1))] = data.draw(st.sampled_from(extremes))
            return values


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@SETTINGS
@given(data=st.data())
def test_mutated_parameters_are_refused_or_decode(make_manifest, data: st.DataObject) -> None:
    """Digests cannot tell that somebody's calibration wrote such an object: what is accepted must decode."""
    manifest = make_manifest(tokens=data.draw(st.sampled_from(TOKENS)), precision="klt1")
    parameters = dict(manifest.encoding.parameters)
    for name in data.draw(st.lists(st.sampled_from(sorted(parameters)), min_size=1, max_size=2, unique=True)):
        parameters[name] = mutated_array(data, parameters[name])
    made = replace(manifest, encoding=Encoding(precision="klt1", parameters=parameters))
    found = parsed(made.document(), parameters)
    if isinstance(found, str):
        assert found.startswith("here")
        return
    precision, shape = get_precision("klt1"), target_shape(manifest.recipe)
    stored = {
        array.name: np.full((2, *array.shape), data.draw(st.integers(0, 255)), np.uint8)
        for array in precision.arrays(shape)
    }
    decoded = precision.decode_views(stored, found.encoding.parameters, shape)
    assert decoded.shape == (2, shape.patches + 1, shape.layers, shape.channels)
    assert np.isfinite(decoded).all()
    encoded = precision.encode_views(decoded, found.encoding.parameters)
    assert {name: array.shape for name, array in encoded.items()} == {name: a.shape for name, a in stored.items()}


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
