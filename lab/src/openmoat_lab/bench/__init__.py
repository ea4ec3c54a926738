"""Measurements in the lab, always of ours and others in the same run on the same machine."""
