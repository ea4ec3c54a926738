"""Whole installations in the lab: which host runs what, with which configuration."""
