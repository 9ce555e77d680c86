"""kvplan: a planner and calculator for the memory of the KV cache of large language models."""

__version__ = "0.1.0"
