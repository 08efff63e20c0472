"""The four commands as users type them; the only place where both stages meet."""
