"""Files that appear whole or not at all, and folders that one process writes to at a time.

Open ``atomic.py`` first: a temporary name, a flush to disk, a rename. ``lock.py`` holds a folder; where the file system
has no locks, ``lock_file.py`` does. ``own_folder.py`` refuses an output folder that something else has filled.
"""
