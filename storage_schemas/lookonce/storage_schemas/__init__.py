"""The documents of a cache as typed, validated values: recipe, encoding, arrays, manifest and receipt.

A document is decoded JSON. ``validate_...`` returns all its problems, ``parse_...`` turns it into a frozen dataclass,
and ``.document()`` turns the dataclass back. The package opens no files and needs no torch.

Open ``recipe.py`` first: it lists everything that decides a cache's content, and computes the fingerprint.
``manifest.py`` is the document of a cache, ``receipt.py`` that of a shard. ``precision/`` encodes target values.
"""
