"""Wire formats of updates: encoding, and decoding that does not trust its input."""
