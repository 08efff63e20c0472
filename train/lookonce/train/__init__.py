"""Stage two: train a student from caches; the teacher is never run, ray and open_clip are never imported.

Stored bytes flow from ``data/`` (order, masks, batches) through ``model/`` (student, adapters, dynamic alignment) in
``loop/`` (steps), which leaves ``checkpoints/`` and ``records/``, on one process or several (``distributed/``).
``sweep/`` trains several students at once, ``evaluation/`` measures them, ``cached_targets.py`` serves trainers of your
own. Open ``loop/trainer.py`` first, then ``model/alignment.py``.
"""
