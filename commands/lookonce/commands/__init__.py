"""The four commands as users type them: flags, printing and exit codes; what they do lies in the packages below.

``command.py`` is how all of them behave. ``cache_commands/`` are the subcommands of ``feature-cache``,
``evaluation_commands/`` the measures of ``evaluate-student``.
"""
