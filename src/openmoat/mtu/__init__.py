"""Sizes: overhead, path MTU, and the plan a backend executes. Pure."""
