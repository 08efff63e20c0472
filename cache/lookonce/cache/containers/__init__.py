"""Containers: the layouts of shards on disk. ``CONTAINERS`` is the table of all, each has its own file.

Open ``container.py`` first: it defines the objects of a shard, how they are written, and where a sample starts. Bytes
flow through ``object_file.py``, which computes their digests.
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
"""All containers by their name in the manifest."""


def container_of(manifest: Manifest) -> Container:
    """The container of a cache."""
    return CONTAINERS[manifest.container]


__all__ = ["CONTAINERS", "Container", "ObjectContent", "ShardSink", "container_of"]
