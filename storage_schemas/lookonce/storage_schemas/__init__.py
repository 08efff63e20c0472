"""The documents a cache is made of: recipe, encoding, arrays, manifest, receipt. No files are touched here."""
