"""Requests and replies of the control socket, and its client."""
