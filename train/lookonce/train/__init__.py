"""Stage two: train a student from caches; never runs the teacher, never imports ray or open_clip.

Batches flow from ``data/`` (order, masks, targets) through ``model/`` (student, adapters, dynamic alignment) in
``loop/`` (steps), which writes ``checkpoints/`` and ``records/``, in one process or several (``distributed/``).
``sweep/`` trains several students at once, ``evaluation/`` measures them, ``cached_targets.py`` gives batches to your
own trainer. Open ``loop/trainer.py`` first, then ``model/alignment.py``.
"""
