"""Measurements in the lab, always beside somebody else's, in the same run on the same machine."""
