"""Capture activations at named points of JAX, Flax, Equinox, PyTorch and Hugging Face models."""

from symjax.extraction.capture import capture, capture_batches

__all__ = ["capture", "capture_batches"]
