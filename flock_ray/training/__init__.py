"""Local training: base model, private data, the engines that run the steps, and held-out losses."""
