"""Weights from and to other frameworks. Imports base/, checkpoint/ and symbols/."""
