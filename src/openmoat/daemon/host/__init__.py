"""What the host must know: policies, routes, sizes, ICMP."""
