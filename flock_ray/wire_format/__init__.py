"""Wire formats of updates: encoding, decoding that does not trust its input, and feedback of what encoding loses."""
