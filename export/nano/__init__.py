"""The default model: built on the user's machine from pinned packages, with NumPy alone.

build.py      packages -> weights -> bundle (no torch, no onnx)
topology.py   dims -> *.onnx and *.layout.json, kept in this folder (needs onnx)
*.safetensors the parts that were trained here
"""

from .build import LlmQuant, build_nano, default_cache, nano_folder

__all__ = ["LlmQuant", "build_nano", "default_cache", "nano_folder"]
