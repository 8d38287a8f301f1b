"""What travels between members: updates as bytes, and decoding that trusts none of them."""
