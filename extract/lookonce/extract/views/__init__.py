"""From listed images to batches of views: each image is decoded once and cropped once per augmentation seed.

Open ``image_views.py`` first: it makes the views of one image. In ``view_batch.py`` threads fill the arrays of a batch.
``stored_views.py`` reads the same views from an earlier cache, without decoding.
"""
