"""Where peers are: DNS names and the addresses they stand for."""
