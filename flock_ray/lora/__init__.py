"""Adapter mathematics on torch: canonical bytes, fixed point, algebra of factors, and the way in and out of PEFT."""
