"""One module per exchange of IKEv2, both roles in each."""
