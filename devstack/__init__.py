"""Starts, kills and restarts processes, for demo, tests, faults and benchmarks. Knows nothing of what they do."""
