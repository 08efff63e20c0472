"""What the operating system, torch and Ray raise, as errors of ours: one sentence with a way out.

Open ``os_errors.py`` first; ``machine_errors.py`` is the table of everything else that a machine may lack.
"""
