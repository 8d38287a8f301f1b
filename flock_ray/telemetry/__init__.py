"""What a user sees of a run: events, tables, report.html and summary.json. Fed from above with plain values."""
