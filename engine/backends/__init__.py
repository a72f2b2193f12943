"""What computes a packed batch."""
