"""Joins the IKEv2 core to the wire, the data plane and the keys."""
