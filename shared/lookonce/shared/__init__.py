"""Code that every stage needs: errors, files, digests, random numbers, images, views and masks. No torch, no Ray.

Open ``errors.py`` first: it defines every error that lookonce raises on purpose. ``randomness.py`` generates all random
numbers; ``views.py`` and ``masking.py`` turn them into crops and masks. ``sources/`` lists users' images, ``images/``
decodes them, ``files/`` writes files safely, and ``faults/`` explains errors of the operating system and libraries.
"""
