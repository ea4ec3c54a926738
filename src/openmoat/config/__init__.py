"""Files to models; all faults of a file together."""
