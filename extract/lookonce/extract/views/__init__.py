"""From listed images to batches of views: each image is decoded once and cropped once per augmentation seed.

Open ``image_views.py`` first: it makes the views of one image. In ``view_batch.py`` threads fill the arrays of a batch
(``view_arrays.py``), on a GPU through processes (``view_processes.py``, and ``view_process.py`` at their end).
``stored_views.py`` reads the same views from an earlier cache, without decoding.
"""
