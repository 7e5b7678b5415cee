"""Kokanee turns sound into text on the machine in front of you: audio language models, quantized, live."""

__version__ = "0.1.0"
__all__ = ["__version__"]
