"""A run of training: its recipe and stages, what it starts from, and what it writes; the loop is common/fit.py."""
