"""Views to committed shards: teacher, encoding, digests and writing, all at once and in order.

Open ``shard_extractor.py`` first: it feeds batches to ``pipeline.py``, whose threads (``teacher_threads.py``) run the
teacher and encode (``batch_encoder.py``, ``target_encoder.py``) while earlier batches are appended (``open_shard.py``).
"""
