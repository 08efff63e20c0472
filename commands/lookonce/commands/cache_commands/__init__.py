"""The subcommands of ``feature-cache`` for one cache or two: plan, show, verify, convert, merge, push and so on.

Each has its own file. Open ``verify.py`` first: a short one.
"""
