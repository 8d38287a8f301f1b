"""Rules that turn accepted updates into integer weights, and the exact weighted mean that all of them share."""
