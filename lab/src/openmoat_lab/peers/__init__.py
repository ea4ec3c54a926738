"""Daemons that run on hosts of the lab: ours, and others as they come from their packages."""
