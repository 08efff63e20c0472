"""Turns errors of the operating system, torch and Ray into lookonce's errors, with advice.

Open ``os_errors.py`` first: errors of files, by errno. ``machine_errors.py`` is the table of missing resources, such as
memory, threads and ports.
"""
