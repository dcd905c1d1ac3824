"""What a capture keeps, and what it changes apart from rules: records, lock, routes, switches of the kernel."""
