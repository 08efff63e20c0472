"""How good features are: labelled images flow through an encoder into a measure.

``labelled_images.py`` lists the images, ``encoders/`` turn them into one vector each. ``knn.py``, ``linear_probe/`` and
``finetune/`` are the measures; the trained ones share the loop of ``fit.py`` and the resumable folder of
``evaluation_folder.py``. Open ``knn.py`` first.
"""
