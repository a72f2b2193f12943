"""The model: its configuration, reference computation, heads and public classes."""
