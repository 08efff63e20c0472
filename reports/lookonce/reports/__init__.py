"""Questions about a cache or a plan, one folder each: what is measured, the document, the text.

``plan/``: what a cache would cost, and whether it pays. ``fidelity/``: what each precision loses. ``drift/``: whether
the teacher still gives the features in a cache. Reports use both stages; nothing but commands imports them.
"""
