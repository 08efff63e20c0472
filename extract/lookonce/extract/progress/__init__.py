"""What a user sees while an extraction runs: events of the pipeline become one line and a table of workers.

Open ``display.py`` first; ``worker_table.py`` sums up where the workers' time goes.
"""
