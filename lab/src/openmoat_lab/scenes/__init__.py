"""Whole installations in the lab: who runs what, with which configuration."""
