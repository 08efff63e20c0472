"""The subcommands of ``feature-cache`` for one cache: plan, show, verify, convert, copy, compare. One file each."""
