"""Files to models and back; all errors of all files together."""
