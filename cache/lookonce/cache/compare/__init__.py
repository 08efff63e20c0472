"""Compares two caches: what made them, what they contain, and how far their values differ. Open ``difference.py``."""
