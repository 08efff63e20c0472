"""Decodes the bytes of an image file to upright 8-bit RGB.

Open ``decode.py`` first. Pillow decodes (``pillow_image.py``), within a limit on the memory of all threads
(``decoding_room.py``). Two cases that Pillow refuses or reads wrongly are handled here: TIFFs of any depth
(``tiff_image.py`` and the other ``tiff_...`` modules), and files with damaged metadata (``image_metadata.py``).
"""
