"""Everything to know of an accelerator in a few minutes; see benchmarks/README.md and docs/gpu.md."""
