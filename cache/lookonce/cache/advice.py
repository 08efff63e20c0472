"""What to do about damage, in the words of every message: resuming looks at sizes, not at bytes."""

from __future__ import annotations

RESUME = "run the extraction again with the same arguments: it writes the shard anew"
"""For objects that are missing or have another size than their receipt says: resuming finds these by itself."""

REPAIR = "delete the receipt of its shard, then run the extraction again: it writes the shard anew"
"""For objects of the right size with wrong bytes."""

RESTORE = "restore it from a copy; a receipt or zarr.json can be deleted instead: extract-features writes it anew"
"""For damaged documents."""
