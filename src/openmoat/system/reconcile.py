"""Desired host state against what is there: only what bears our mark is touched, and nothing foreign ever is."""

from openmoat.system.state import HostState, SourceRoute, TunnelRoute

__all__ = ["HostState", "SourceRoute", "TunnelRoute"]
