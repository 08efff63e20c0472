"""Frozen teachers: one table of names, one adapter a library."""
