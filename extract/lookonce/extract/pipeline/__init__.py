"""From views to committed shards: teacher, encoding, digests and writing run at the same time, in order.

Open ``shard_extractor.py`` first: it submits batches to ``pipeline.py``, whose threads (``teacher_threads.py``) run the
teacher and encode (``batch_encoder.py``, ``target_encoder.py``) while earlier batches are appended (``open_shard.py``).
``events.py`` names the events that come out.
"""
