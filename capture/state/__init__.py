"""What a capture needs and remembers besides rules."""
