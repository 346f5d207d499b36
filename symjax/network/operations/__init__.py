"""Implementations of operations that are slow where XLA's own stand in loops, or carry a member axis."""
