"""What a capture needs and remembers, apart from rules."""
