"""Documents: validators list every problem, digests bind, and recipes differ field by field."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookonce.cache.write.create import check_same_recipe
from lookonce.shared.errors import RecipeMismatchError, SchemaError
from lookonce.storage_schemas.encoding import Encoding
from lookonce.storage_schemas.manifest import parse_manifest, validate_manifest
from lookonce.storage_schemas.problems import sealed
from lookonce.storage_schemas.receipt import Hole, Receipt, StoredObject, parse_receipt, validate_receipt
from lookonce.storage_schemas.recipe import document_differences


@pytest.fixture
def manifest_document(make_manifest) -> dict[str, Any]:
    return json.loads(json.dumps(make_manifest().document()))


@pytest.fixture
def receipt() -> Receipt:
    digest = "sha256:" + "a" * 64
    return Receipt(
        fingerprint=digest,
        encoding=digest,
        seed=3,
        shard=1,
        first_sample=2,
        samples=2,
        holes=(Hole(sample=3, key="b.jpg", label=0, reason="truncated"),),
        objects=(StoredObject(array="label", path="seed-0003/label/c/1", bytes=16, digest=digest),),
        statistics={"feature_norm": 1.5},
        versions={"lookonce": "0"},
    )


def kinds(problems: list[Any]) -> dict[str, str]:
    return {".".join(map(str, problem.loc)): problem.kind for problem in problems}


def test_documents_survive_json(make_manifest, receipt: Receipt) -> None:
    for precision in ("fp16", "int8"):
        manifest = make_manifest(precision=precision)
        again = parse_manifest(json.loads(json.dumps(manifest.document())), "here")
        assert again.document() == manifest.document()
        assert again.recipe.fingerprint == manifest.recipe.fingerprint
        assert again.arrays == manifest.arrays
        for name, values in manifest.encoding.parameters.items():
            np.testing.assert_array_equal(again.encoding.parameters[name], values)
    assert parse_receipt(json.loads(json.dumps(receipt.document())), "here") == receipt


def test_a_manifest_lists_all_its_problems(manifest_document) -> None:
    manifest_document["shard_size"] = 0
    manifest_document["container"] = "rar"
    manifest_document["colour"] = "red"
    del manifest_document["classes"]
    manifest_document["recipe"]["teacher"]["width"] = "wide"
    found = validate_manifest(manifest_document)
    assert len(found) == 5
    placed = kinds([problem for problem in found if problem.loc])
    assert placed == {"shard_size": "value", "container": "value", "recipe.teacher.width": "type"}
    assert {problem.kind for problem in found if not problem.loc} == {"unexpected", "missing"}
    with pytest.raises(SchemaError) as caught:
        parse_manifest(manifest_document, "c/manifest.json")
    assert list(caught.value.problems) == found
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems
    for part in ("c/manifest.json", "shard_size: ", "container: ", "colour", "'classes'", "recipe.teacher.width: "):
        assert part in str(caught.value)


def test_many_problems_are_counted(manifest_document) -> None:
    manifest_document["classes"] = list(range(20))
    with pytest.raises(SchemaError, match="and 12 more") as caught:
        parse_manifest(manifest_document, "here")
    assert {problem.loc for problem in caught.value.problems} == {("classes", place) for place in range(20)}


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_unknown_versions_are_refused_by_number_alone(manifest_document, receipt: Receipt, version: object) -> None:
    for document, validate in ((manifest_document, validate_manifest), (receipt.document(), validate_receipt)):
        problems = validate({**document, "schema_version": version, "anything": "else"})
        assert kinds(problems) == {"schema_version": "version"}
        assert f"version {version!r} is not known" in problems[0].message


@pytest.mark.parametrize("document", [None, [], "text", 3, {}, {"schema": "other"}])
def test_what_is_no_such_document_is_one_problem(document: object) -> None:
    assert len(validate_manifest(document)) == 1
    assert len(validate_receipt(document)) == 1


def test_a_fingerprint_must_be_that_of_the_recipe(manifest_document) -> None:
    before = manifest_document["fingerprint"]
    manifest_document["recipe"]["dataset"]["samples"] += 1
    (problem,) = validate_manifest(sealed(manifest_document))
    assert (problem.loc, problem.kind) == (("fingerprint",), "inconsistent")
    assert before in problem.message


def test_an_encoding_digest_must_be_that_of_the_parameters(make_manifest, manifest_document) -> None:
    other = make_manifest(width=6).encoding.parameters["scale"] * 2
    changed = Encoding(precision="int8", parameters={"scale": other}).document()["parameters"]["scale"]
    manifest_document["encoding"]["parameters"]["scale"] = changed
    (problem,) = validate_manifest(sealed(manifest_document))
    assert (problem.loc, problem.kind) == (("encoding", "digest"), "inconsistent")


@pytest.mark.parametrize(
    "change", [{"base64": "!"}, {"base64": "AAA="}, {"shape": [7, 7]}, {"shape": []}, {"base64": "é"}]
)
def test_unreadable_parameters_are_a_problem(manifest_document, change: dict) -> None:
    manifest_document["encoding"]["parameters"]["scale"].update(change)
    (problem,) = validate_manifest(sealed(manifest_document))
    assert problem.loc == ("encoding", "digest")


def test_a_document_changed_after_it_was_sealed_is_a_problem(manifest_document, receipt: Receipt) -> None:
    manifest_document["shard_size"] += 1
    for problems in (
        validate_manifest(manifest_document),
        validate_receipt({**receipt.document(), "versions": {"lookonce": "1"}}),
    ):
        assert kinds(problems) == {"digest": "inconsistent"}


@pytest.mark.parametrize(
    ("precision", "parameters", "told"),
    [
        ("int8", {"scale": (2, 6)}, "precision int8 needs the parameter 'offset', found .'scale'."),
        ("int8", {"scale": (2, 6), "offset": (2, 5)}, r"'offset' has shape \[2, 5\], expected \[2, 6\]"),
        ("int4", {"scale": (2, 6), "offset": (2, 6), "levels": (8,)}, r"'levels' has shape \[8\], expected \[16\]"),
    ],
)
def test_an_encoding_must_be_usable(make_manifest, precision: str, parameters: dict, told: str) -> None:
    arrays = {name: np.ones(shape, np.float32) for name, shape in parameters.items()}
    encoding = Encoding(precision=precision, parameters=arrays)
    with pytest.raises(SchemaError, match=told):
        parse_manifest(dataclasses.replace(make_manifest(), encoding=encoding).document(), "here")


def test_a_precision_of_a_newer_lookonce_is_named(manifest_document) -> None:
    manifest_document["encoding"]["precision"] = "int3"
    (problem,) = validate_manifest(sealed(manifest_document))
    assert problem.loc == ("encoding", "precision")
    assert "precision 'int3' is not known to this lookonce (fp16, " in problem.message


def test_arrays_are_there_once_and_patches_fit_the_view(make_manifest, manifest_document) -> None:
    manifest_document["arrays"].append(manifest_document["arrays"][0])
    (problem,) = validate_manifest(sealed(manifest_document))
    assert str(problem) == "arrays: 'targets' is listed twice"
    manifest = make_manifest()
    recipe = dataclasses.replace(manifest.recipe, patch_size=7)
    (problem,) = validate_manifest(dataclasses.replace(manifest, recipe=recipe).document())
    assert problem.loc == ("recipe", "patch_size")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda arrays: arrays.pop("view"), "'view' is missing"),
        (lambda arrays: arrays.update(sound={**arrays["key"], "name": "sound"}), "'sound' is not an array"),
        (lambda arrays: arrays["targets"].update(dtype="float32"), "'targets': dtype is 'float32', .* 'uint8'"),
        (
            lambda arrays: arrays["targets"].update(sample_shape=[17, 2, 7]),
            r"sample_shape is \[17, 2, 7\], .* \[17, 2, 6\]",
        ),
        (lambda arrays: arrays["label"].update(chunking="sample"), "'label': chunking is 'sample'"),
    ],
)
def test_arrays_are_those_that_the_recipe_makes(manifest_document, change: Any, told: str) -> None:
    arrays = {spec["name"]: spec for spec in manifest_document["arrays"]}
    change(arrays)
    manifest_document["arrays"] = list(arrays.values())
    (problem,) = validate_manifest(sealed(manifest_document))
    assert (problem.loc, problem.kind) == (("arrays",), "inconsistent")
    assert re.search(told, problem.message), problem


def test_receipts_hold_rows_of_their_shard_and_paths_of_the_cache(receipt: Receipt) -> None:
    document = receipt.document()
    document["holes"] = [{"sample": row, "key": "k", "label": -1, "reason": "r"} for row in (1, 2, 3, 4)]
    stored = document["objects"][0]
    document["objects"] = [{**stored, "path": path} for path in ("/etc/passwd", "a/../../b", "a/..b", "a/b", "a\0b")]
    assert kinds(validate_receipt(sealed(document))) == {
        "holes.0.sample": "inconsistent",
        "holes.3.sample": "inconsistent",
        "objects.0.path": "value",
        "objects.1.path": "value",
        "objects.4.path": "value",
    }


def test_the_fingerprint_is_about_content_alone(make_manifest) -> None:
    manifest = make_manifest()
    fingerprint = manifest.recipe.fingerprint
    same = (make_manifest(shard_size=3), make_manifest(precision="fp16"), make_manifest(store_pixels=False))
    assert {other.recipe.fingerprint for other in same} == {fingerprint}
    teacher = manifest.recipe.teacher
    changes: list[dict[str, Any]] = [
        {"weights_digest": "sha256:" + "b" * 64},
        {"mean": (0.4, 0.5, 0.5)},
        {"blocks": (4,)},
        {"input_size": 64},
        {"compute_precision": "bf16"},
    ]
    others = {
        dataclasses.replace(manifest.recipe, teacher=dataclasses.replace(teacher, **change)).fingerprint
        for change in changes
    }
    assert len(others | {fingerprint}) == len(changes) + 1


def test_differences_of_recipes_name_each_field_with_both_values(make_manifest, tmp_path: Path) -> None:
    ours, theirs = make_manifest().recipe, make_manifest(samples=9, layers=1).recipe
    assert document_differences(ours.document(), theirs.document()) == [
        ("dataset.samples", 5, 9),
        ("teacher.blocks", [3, 4], [4]),
    ]
    check_same_recipe(tmp_path, ours, make_manifest(shard_size=5).recipe)
    with pytest.raises(RecipeMismatchError) as caught:
        check_same_recipe(tmp_path, ours, theirs)
    assert "dataset.samples: cache has 5, this run has 9; teacher.blocks: cache has [3, 4], this run has [4]" in str(
        caught.value
    )


def test_shards_cover_the_rows(make_manifest) -> None:
    manifest = make_manifest(samples=5, shard_size=2)
    assert [list(manifest.shard_rows(shard)) for shard in range(3)] == [[0, 1], [2, 3], [4]]
    for shard in (-1, 3):
        with pytest.raises(IndexError, match=f"shard {shard} of 3"):
            manifest.shard_rows(shard)
    with pytest.raises(KeyError):
        manifest.array("sound")


@pytest.mark.parametrize("name", ["shard_size", "shape", "sample_shape", "first_sample"])
def test_a_float_is_no_integer(manifest_document, receipt: Receipt, name: str) -> None:
    receipt_document = receipt.document()
    if name == "shard_size":
        manifest_document["shard_size"] = 2.0
    elif name == "shape":
        manifest_document["encoding"]["parameters"]["scale"]["shape"] = [2.0, 6]
    elif name == "sample_shape":
        manifest_document["arrays"][0]["sample_shape"] = [17.0, 2, 6]
    else:
        receipt_document["first_sample"] = 2.0  # type: ignore[typeddict-item]
    problems = validate_manifest(sealed(manifest_document)) + validate_receipt(sealed(receipt_document))
    assert [problem.kind for problem in problems] == ["type"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_json_cannot_hold_is_a_problem(manifest_document, value: object) -> None:
    manifest_document["recipe"]["view"]["more"] = value
    assert validate_manifest(manifest_document)
