"""torch comes first: its triton cannot be imported after TensorFlow."""

from __future__ import annotations

import os

import torch._dynamo  # noqa: F401

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
