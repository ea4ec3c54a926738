"""A Linux kernel of our own choice as a peer: a user-mode Linux guest beside a lab, which needs no rights of a machine."""
