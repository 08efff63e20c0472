"""What every stage needs: errors, files, digests, random numbers, images, views and masks. No torch, no ray.

Open ``errors.py`` first: every message of lookonce is one of its classes. ``randomness.py`` is the source of every
random number; ``views.py`` and ``masking.py`` turn it into crops and masks. ``sources/`` lists users' images,
``images/`` decodes them.
"""
