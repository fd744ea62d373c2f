"""How good a detector or a set of pseudo-labels is, what it costs, and what it gained."""
