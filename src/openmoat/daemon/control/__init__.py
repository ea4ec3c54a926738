"""The control socket: its server and the handlers of its requests."""
