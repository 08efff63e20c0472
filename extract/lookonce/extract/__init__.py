"""Stage one: run the frozen teacher once per augmentation seed and write its features.

Images flow through ``views/`` (one decoding, one crop per seed), ``teachers/`` (block outputs and importance) and
``pipeline/`` (encoding, writing, committing) into a cache. ``prepare.py`` lists the remaining shards, ``reuse/`` copies
samples or views of an earlier cache, ``progress/`` shows the progress. Open ``run.py`` first, then
``pipeline/shard_extractor.py``.
"""
