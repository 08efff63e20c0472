"""Files that appear completely or not at all, and folders with one writer at a time.

Open ``atomic.py`` first: a temporary name, a flush to disk, a rename. ``lock.py`` locks a folder, with ``lock_file.py``
on file systems without locks. ``own_folder.py`` refuses an output folder with foreign files.
"""
