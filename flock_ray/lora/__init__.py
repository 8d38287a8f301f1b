"""Adapter mathematics on torch: canonical bytes, fixed point, algebra of factors, import from and export to PEFT."""
