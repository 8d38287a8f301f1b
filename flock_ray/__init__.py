"""Federated LoRA fine-tuning across owners of private data, with committees, stakes and on-chain settlement."""
