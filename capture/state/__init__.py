"""What a capture needs and records, apart from rules."""
