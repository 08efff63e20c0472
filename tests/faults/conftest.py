"""Everything here but the test is a script and its modules, which import one another by bare names."""

collect_ignore_glob = ["[!t]*.py"]
