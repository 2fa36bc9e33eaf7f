"""Curves of training runs: read from metrics, logs and published tables. Imports base/."""
