"""Rules that turn accepted updates into integer weights, and the exact weighted sum that all of them share."""
