"""Pictures of images, masks, attention, curves."""
