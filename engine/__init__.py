"""Samples in, text out: NumPy, ONNX Runtime and a tokenizer, nothing else."""
