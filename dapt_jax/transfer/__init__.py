"""Carrying a structure to tasks with little data: draws, retraining, comparison."""
