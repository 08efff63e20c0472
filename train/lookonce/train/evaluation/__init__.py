"""How good features are: labelled images flow through an encoder into a measure.

Open ``knn.py`` first. ``labelled_images.py`` lists the images, ``encoders/`` turn them into one vector each, and
``knn.py``, ``linear_probe/`` and ``finetune/`` are the measures. ``segmentation/`` measures patches instead, on images
with masks. Measures that train share the loop of ``fit.py`` and the resumable folder of ``evaluation_folder.py``.
"""
