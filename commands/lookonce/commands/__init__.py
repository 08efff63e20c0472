"""The four commands: flags, printing and exit codes. The packages below do the work.

Open ``command.py`` first: what all commands share. ``cache_commands/`` and ``catalogue_commands/`` are the subcommands
of ``feature-cache``, ``evaluation_commands/`` the measures of ``evaluate-student``.
"""
