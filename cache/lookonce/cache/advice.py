"""Advice against damage, shared by all messages. Resuming compares sizes, not bytes, so the advice differs."""

from __future__ import annotations

RESUME = "run the extraction again with the same arguments: it writes the shard again"
"""For objects that are missing or have the wrong size: resuming finds these itself."""

REPAIR = "delete the receipt of its shard, then run the extraction again: it writes the shard again"
"""For objects of the right size with wrong bytes."""

RESTORE = "restore it from a copy; a receipt or zarr.json can be deleted instead: extract-features writes it again"
"""For damaged documents."""
