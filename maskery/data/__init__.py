"""From files to batches: sources, decoding, survey, views, loader; and the built-in scenes."""
