"""What `benchmarks/reliability.py` does: spoils objects, measures them, counts and draws."""
