"""Bytes of an image file to an array."""
