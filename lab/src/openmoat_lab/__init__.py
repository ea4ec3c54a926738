"""Networks in namespaces on one machine, with peers, captures and measurements."""
