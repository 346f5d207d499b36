"""Activations of any model at named points: JAX, Flax, Equinox, PyTorch and Hugging Face models."""

from symjax.extraction.capture import capture, capture_batches

__all__ = ["capture", "capture_batches"]
