"""Trained encoders and classifiers, applied to images as people have them."""
