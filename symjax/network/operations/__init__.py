"""Implementations that replace operations which XLA runs slowly on some backends."""
