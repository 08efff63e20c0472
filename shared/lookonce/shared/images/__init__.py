"""Any image file's bytes to upright 8-bit RGB, or one error that names the file and says why not.

Open ``decode.py`` first. Pillow decodes (``pillow_image.py``), within a bound on memory over all threads
(``decoding_room.py``); what it refuses or reads wrongly is read here: TIFFs of any depth (``tiff_image.py``) and files
whose damaged metadata say nothing about the pixels (``image_metadata.py``).
"""
