"""Paths in a cache folder. Apart from listing folders and loading documents, nothing here touches the disk."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from lookonce.cache.advice import RESTORE
from lookonce.cache.containers.container import seed_folder
from lookonce.shared.canonical import canonical_json
from lookonce.shared.errors import CacheError, SchemaError
from lookonce.shared.faults.os_errors import ABSENT, access_error, os_reason
from lookonce.storage_schemas.manifest import FILE_NAME, Manifest, parse_manifest
from lookonce.storage_schemas.receipt import Receipt, parse_receipt

_SEED_FOLDER = re.compile(r"seed-(\d{4,})")
_RECEIPT_FILE = re.compile(r"shard-(\d{5,})\.json")


def receipt_path(seed: int, shard: int) -> str:
    """POSIX path of a receipt, relative to the cache."""
    return f"receipts/seed-{seed:04d}/shard-{shard:05d}.json"


def receipt_place(path: str) -> tuple[int, int] | None:
    """Seed and shard of the receipt at a path relative to the cache; None if it is not the path of a receipt.

    >>> receipt_place("receipts/seed-0003/shard-00012.json")
    (3, 12)
    """
    folder, _, name = path.removeprefix("receipts/").partition("/")
    seed, shard = _SEED_FOLDER.fullmatch(folder), _RECEIPT_FILE.fullmatch(name)
    if seed is None or shard is None or path != receipt_path(int(seed[1]), int(shard[1])):
        return None
    return int(seed[1]), int(shard[1])


@dataclass(frozen=True)
class CacheLayout:
    """Paths of a cache."""

    root: Path

    @property
    def manifest_file(self) -> Path:
        """``manifest.json``."""
        return self.root / FILE_NAME

    def seed_folder(self, seed: int) -> Path:
        """A seed's folder, ``seed-0000``: a zarr group, or tar shards."""
        return self.root / seed_folder(seed)

    def receipt_file(self, seed: int, shard: int) -> Path:
        """``receipts/seed-0000/shard-00000.json``."""
        return self.root / receipt_path(seed, shard)

    def seeds(self) -> tuple[int, ...]:
        """Seeds that have a folder of receipts, in numeric order."""
        folder = self.root / "receipts"
        if not folder.is_dir():
            return ()
        matches = (_SEED_FOLDER.fullmatch(entry.name) for entry in folder.iterdir())
        return tuple(sorted(int(match[1]) for match in matches if match))

    def seed_folders(self) -> tuple[int, ...]:
        """Seeds that have a folder of arrays, in numeric order, with or without committed shards."""
        matches = (_SEED_FOLDER.fullmatch(entry.name) for entry in self.root.iterdir() if entry.is_dir())
        return tuple(sorted(int(match[1]) for match in matches if match))

    def receipted_shards(self, seed: int) -> tuple[int, ...]:
        """Shards of a seed that have a receipt, in numeric order."""
        folder = self.receipt_file(seed, 0).parent
        if not folder.is_dir():
            return ()
        matches = (_RECEIPT_FILE.fullmatch(entry.name) for entry in folder.iterdir())
        return tuple(sorted(int(match[1]) for match in matches if match))

    def complete_seeds(self, shard_count: int) -> tuple[int, ...]:
        """Seeds with a receipt for each of their ``shard_count`` shards, in numeric order."""
        return tuple(seed for seed in self.seeds() if set(self.receipted_shards(seed)) >= set(range(shard_count)))

    def load_manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            CacheError: there is no manifest.
            SchemaError: the manifest is invalid; ``problems`` of the error are all problems.
        """
        if not self.manifest_file.is_file():
            raise CacheError(f"{self.root}: no {FILE_NAME} here, so this is not a lookonce cache; {self._advice()}")
        return parse_manifest(load_json(self.manifest_file), str(self.manifest_file), self.load_arrays)

    def load_arrays(self, path: str) -> dict[str, NDArray[Any]]:
        """Read the object of an encoding's parameters.

        Args:
            path: POSIX path of a safetensors file, relative to the cache.

        Raises:
            ValueError: it is missing, or not a safetensors file.
            AccessError: the operating system denies access to it.
        """
        try:
            content = (self.root / path).read_bytes()
        except ABSENT as error:
            raise ValueError(f"it cannot be read: {os_reason(error)}") from error
        except OSError as error:
            raise access_error(error, self.root / path) from error
        return decode_arrays(content)

    def _advice(self) -> str:
        if not self.root.exists():
            return "the folder does not exist: check the path, or make a cache with extract-features --out"
        nested = sorted(child.parent.name for child in self.root.glob(f"*/{FILE_NAME}"))[:3]
        if nested:
            return f"the folder contains caches: {', '.join(nested)}"
        return "check the path, or make a cache with extract-features --out"

    def load_receipt(self, seed: int, shard: int) -> Receipt:
        """Read one receipt and check that it belongs to this seed and shard.

        Raises:
            SchemaError: the receipt is invalid, or belongs to another seed or shard.
        """
        path = self.receipt_file(seed, shard)
        receipt = parse_receipt(load_json(path), str(path))
        if (receipt.seed, receipt.shard) != (seed, shard):
            raise SchemaError(
                f"{path}: this is the receipt of seed {receipt.seed}, shard {receipt.shard}; "
                f"expected seed {seed}, shard {shard}: the file was moved; delete it and run the extraction again"
            )
        return receipt


def load_json(path: Path) -> Any:
    """Decode a JSON file.

    Raises:
        SchemaError: the file is missing or is not JSON.
        AccessError: the file cannot be accessed.
    """
    try:
        content = path.read_bytes()
    except ABSENT as error:
        raise SchemaError(f"{path}: cannot be read: {os_reason(error)}; {RESTORE}") from error
    except OSError as error:
        raise access_error(error, path) from error
    return decode_json(content, str(path))


def decode_json(content: bytes, where: str) -> Any:
    """Decode the bytes of a JSON file.

    Raises:
        SchemaError: they are not JSON.
    """
    try:
        document = json.loads(content.decode("utf-8"))
        canonical_json(document)  # Python also reads NaN, infinity and lone surrogates, which are not JSON
        return document
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, or numbers of too many digits
        raise SchemaError(f"{where}: cannot be read as JSON: {error}; {RESTORE}") from error


def decode_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file.

    Raises:
        ValueError: it is not a safetensors file.
    """
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(f"it is no safetensors file: {error}") from error
    except KeyError as error:  # a type that safetensors knows and numpy does not
        raise ValueError(f"it contains an array of dtype {error.args[0]}") from error
