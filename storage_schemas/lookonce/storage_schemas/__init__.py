"""The documents of a cache as typed, validated values: recipe, encoding, arrays, manifest, receipt. No files, no torch.

Open ``recipe.py`` first: it says what decides a cache's content, and computes the fingerprint. ``manifest.py`` is the
document of a whole cache, ``receipt.py`` that of one shard. ``precision/`` holds the encodings of target values.
"""
