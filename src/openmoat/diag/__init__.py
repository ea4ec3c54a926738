"""Says which layer is broken, and why."""
