"""Packed copies of a data set: writing and reading them."""
