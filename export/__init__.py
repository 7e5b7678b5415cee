"""Checkpoints to bundles: graph topologies, weight readers, parity with PyTorch."""
