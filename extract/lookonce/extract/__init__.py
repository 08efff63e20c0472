"""Stage one: run the frozen teacher once per augmentation seed and write what it saw."""
