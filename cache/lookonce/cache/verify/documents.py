"""Checks the documents that no single shard owns: the manifest, and the zarr metadata of each seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lookonce.cache.layout import CacheLayout, load_json
from lookonce.cache.verify.findings import Finding
from lookonce.cache.write.create import seed_metadata
from lookonce.shared.canonical import canonical_json
from lookonce.shared.errors import AccessError, CacheError, StoreError
from lookonce.shared.faults.os_errors import access_advice, access_error, access_problem
from lookonce.shared.files.atomic import json_bytes
from lookonce.storage_schemas.encoding import object_sha256
from lookonce.storage_schemas.manifest import Manifest, ManifestDocument, parse_manifest, validate_manifest
from lookonce.storage_schemas.recipe import document_differences


def check_manifest(layout: CacheLayout) -> tuple[Manifest | None, list[Finding]]:
    """The manifest (None if it is invalid), and a finding for each of its problems."""
    path = layout.manifest_file
    advice = "restore it from a copy, or extract into a new folder"
    if not path.is_file():
        found = "there is no manifest, so this is not a lookonce cache"
        return None, [Finding(path=path.name, problem=found, advice=f"check the path {layout.root}, or {advice}")]
    try:
        document = load_json(path)
    except AccessError as error:
        return None, [not_readable(error, path, path.name)]
    except CacheError as error:
        problem = reason(error, path)
        return None, [Finding(path=path.name, problem=problem, advice=advice)]
    problems = [str(problem) for problem in validate_manifest(document)]
    if problems:
        return None, [Finding(path=path.name, problem=problem, advice=advice) for problem in problems]
    try:
        manifest = parse_manifest(document, str(path), layout.load_arrays)
    except AccessError as error:
        name = document["encoding"]["object"]
        return None, [not_readable(error, layout.root / name, name)]
    except CacheError as error:
        name = document["encoding"]["object"]
        return None, [Finding(path=name, problem=reason(error, path), advice=advice)]
    findings = (
        [Finding(path=path.name, problem=changed, advice=advice)] if (changed := form_problem(path, document)) else []
    )
    if manifest.encoding.apart and (finding := _object_finding(layout, document, advice)) is not None:
        findings.append(finding)
    return manifest, findings


def _object_finding(layout: CacheLayout, document: ManifestDocument, advice: str) -> Finding | None:
    """Problem with the object of an encoding whose arrays are valid: its header, or more than these arrays."""
    name = document["encoding"].get("object", "")
    try:
        found = (layout.root / name).read_bytes()
    except OSError as error:
        return not_readable(error, layout.root / name, name)
    computed, expected = object_sha256(found), document["encoding"].get("object_sha256")
    if computed == expected:
        return None
    problem = f"its arrays are right, its SHA-256 is {computed}, the manifest lists {expected}: its header was changed"
    return Finding(path=name, problem=problem, advice=advice)


def form_problem(path: Path, document: Any) -> str | None:
    """Problem with the bytes of a file whose document is valid: a document's digest does not cover white space.

    Raises:
        AccessError: the file cannot be accessed.
    """
    try:
        if path.read_bytes() == json_bytes(document):
            return None
    except OSError as error:
        raise access_error(error, path) from error
    return "its white space, order or spelling was changed: lookonce writes other bytes for this document"


def check_metadata(layout: CacheLayout, manifest: Manifest, seed: int) -> Iterator[Finding]:
    """Compare each ``zarr.json`` of a seed with the manifest, because other readers rely on it."""
    for path, expected in seed_metadata(layout.root, manifest, seed).items():
        array = None if path.parent == layout.seed_folder(seed) else path.parent.name
        name = path.relative_to(layout.root).as_posix()
        try:
            problem = _metadata_problem(path, expected)
        except AccessError as error:
            yield not_readable(error, path, name, array=array, seed=seed)
            continue
        if problem is not None:
            yield Finding(
                path=name,
                array=array,
                seed=seed,
                problem=problem,
                advice="run extract-features again with the same arguments: it writes the file again",
            )


def _metadata_problem(path: Path, expected: Mapping[str, Any]) -> str | None:
    try:
        document = load_json(path)
    except CacheError as error:
        return reason(error, path)
    if canonical_json(document) == canonical_json(expected):  # == would accept true as 1
        return form_problem(path, expected)
    if not isinstance(document, dict):
        return f"it is a JSON {type(document).__name__}, expected an object"
    differences = document_differences(document, expected)[:4]
    listed = [f"{field} is {found!r:.80}, expected {wanted!r:.80}" for field, found, wanted in differences]
    return "; ".join(listed) or "it differs from the manifest"


def not_readable(
    error: AccessError | OSError,
    path: Path,
    name: str,
    *,
    array: str | None = None,
    seed: int | None = None,
    shard: int | None = None,
    rows: tuple[int, int] | None = None,
) -> Finding:
    """The finding for a file that cannot be accessed.

    Args:
        error: error of the operating system, or the ``AccessError`` made of it.
        path: the file.
        name: POSIX path relative to the cache.
        array: as in ``Finding``.
        seed: as in ``Finding``.
        shard: as in ``Finding``.
        rows: as in ``Finding``.
    """
    if isinstance(error, StoreError):
        problem = error.message.partition(f"{name}: ")[2] or error.message
        return Finding(
            path=name,
            array=array,
            seed=seed,
            shard=shard,
            rows=rows,
            kind="not readable",
            problem=f"it cannot be read, which does not mean that it is damaged: {problem}",
            advice="then run the same command again",
        )
    cause = error if isinstance(error, OSError) else error.__cause__
    known = cause if isinstance(cause, OSError) else OSError(str(error))
    return Finding(
        path=name,
        array=array,
        seed=seed,
        shard=shard,
        rows=rows,
        kind="not readable",
        problem=f"it cannot be read: {access_problem(known)}",
        advice=access_advice(known),
    )


def reason(error: CacheError, path: Path) -> str:
    """An error's message without the file and the advice, which are fields of a finding."""
    return str(error).removeprefix(f"{path}: ").split("; ")[0]
