"""The subcommands of ``feature-cache`` for one cache: plan, show, verify, convert, compare. One file each."""
