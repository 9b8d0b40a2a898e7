"""Continual learning: importance of weights, distillation, memories, progressive networks, and what is forgotten."""
