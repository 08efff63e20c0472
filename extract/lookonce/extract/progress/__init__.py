"""What a user sees while an extraction runs: events of the pipeline become one line, and a row per worker."""
