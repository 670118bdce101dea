"""Stagecraft's trainer: a language model from random weights through four stages, in plain PyTorch."""

import os

__version__ = "0.1.0"

# oneDNN, which multiplies for PyTorch on a processor, compiles for every shape and keeps what it compiled, a thousand
# of each kind: with rows of all lengths that grew by 60 MB a round of reinforcement learning of a 135 M model, and what
# lay scattered between kept the rest from being given back (2 GB after 40 rounds). The shapes of one pass are some
# dozens. Set here because both are read once, when torch is loaded.
for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "256")
