"""What is and what has been: status, counters, journal."""
