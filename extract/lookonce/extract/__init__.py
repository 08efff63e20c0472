"""Stage one: run the frozen teacher once per augmentation seed and write its features.

Images flow through ``views/`` (decoded once, one crop per seed), ``teachers/`` (block outputs and importance) and
``pipeline/`` (encoded, written, committed) into a cache. ``prepare.py`` decides what is left to do, ``reuse/`` takes
what an earlier cache holds, ``progress/`` shows it. Open ``run.py`` first, then ``pipeline/shard_extractor.py``.
"""
