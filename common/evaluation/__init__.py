"""Scores, tables of answers and of classes. Imports base/, checkpoint/ and, in `score`, MXNet."""
