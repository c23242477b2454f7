"""Configurations of the apps; each docstring states expected result, cost and command."""
