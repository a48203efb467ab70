"""Each folder here is a distribution of its own, which its how-to installs and `tests/plugin` loads."""

collect_ignore_glob = ["*/test_*.py"]
