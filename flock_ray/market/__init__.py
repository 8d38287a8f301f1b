"""The marketplace: what was trained is registered, served, metered, paid for, and taught by what users say."""
