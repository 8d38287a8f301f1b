"""The marketplace: models with their lineage, a gateway with keys and a ledger, receipts, and their settlement."""
