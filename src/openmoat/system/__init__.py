"""The host around the daemon: descriptors, addresses, routes, rules, guard."""
