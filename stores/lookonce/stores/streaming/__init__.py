"""Caches that are read from a URL while a run trains: whole objects, fetched ahead into a folder of the machine.

Open ``remote_caches.py`` first: it gives a reader the documents and objects of a cache at a URL. Threads fetch objects
in the order in which the run needs them (``fetching.py``), as far ahead as there is room (``ahead.py``), into a folder
that all processes and runs share (``object_folder.py``). ``lookonce.train`` knows none of this: the entry point
``lookonce.remote_caches`` leads here.
"""
