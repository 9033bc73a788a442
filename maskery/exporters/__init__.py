"""Weights out: each kind is loaded again by the library it is for and compared on a batch before it counts as done."""
