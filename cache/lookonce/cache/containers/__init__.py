"""Containers: how shards lie on disk. One file each, one table from name to container.

Open ``container.py`` first: which objects a shard has, how they are written, and where in them a sample lies. Bytes go
through ``object_file.py``, which digests them on their way.
"""

from __future__ import annotations

from collections.abc import Mapping

from lookonce.cache.containers.container import Container, ObjectContent, ShardSink
from lookonce.cache.containers.webdataset import WebDatasetContainer
from lookonce.cache.containers.zarr import ZarrContainer
from lookonce.storage_schemas.manifest import Manifest

CONTAINERS: Mapping[str, Container] = {
    container.name: container for container in (ZarrContainer(), WebDatasetContainer())
}
"""By the name that a manifest holds; its schema refuses others."""


def container_of(manifest: Manifest) -> Container:
    """The container of a cache."""
    return CONTAINERS[manifest.container]


__all__ = ["CONTAINERS", "Container", "ObjectContent", "ShardSink", "container_of"]
