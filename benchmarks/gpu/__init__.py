"""Benchmarks of an accelerator that take a few minutes; see docs/gpu.md."""
