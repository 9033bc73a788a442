"""Networks and their parts: vision transformer, decoder, masking, positions, targets."""
