"""A run of training: its options and stages, the loop, and what it writes."""
