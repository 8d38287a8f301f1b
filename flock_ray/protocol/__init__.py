"""The rules of an epoch in pure Python, from the seed to the record: no ray, torch, web3, clock or I/O."""
