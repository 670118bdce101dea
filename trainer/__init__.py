"""Stagecraft's trainer: a language model from random weights through four stages, in plain PyTorch."""

__version__ = "0.1.0"
