"""Other implementations of operations that XLA runs slowly on some backend."""
