"""Rules that turn accepted updates into integer weights, and the one exact combination that all of them share."""
