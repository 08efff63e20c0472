"""Objects at a URL: what a store can do, and how requests are repeated, bounded and hashed.

A URL (``urls.py``) is opened (``open_store.py``) as a store (``store.py``): a bucket or a web server through obstore
(``object_store.py``), or a repository of the hub (``hub.py``). ``transfer.py`` moves objects in threads; open it first.
"""
