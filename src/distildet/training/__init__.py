"""Training: what is computed in a step, and the one loop that steps."""
