"""What lies between the two stages: the cache on disk, written by extraction, read by training."""
