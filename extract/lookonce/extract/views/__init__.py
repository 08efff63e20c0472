"""From listed images to batches of views: images are read and decoded once and cropped once per augmentation seed.

Open ``image_views.py`` first, then ``view_batch.py``: threads put the patches of a batch where they are written from.
``stored_views.py`` gives the same views out of an earlier cache, without decoding.
"""
