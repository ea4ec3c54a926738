"""Peers that no one here wrote, started in the lab as they come from their packages."""
