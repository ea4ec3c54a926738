"""A zoo of servers: how each kind handles packets that are too large, over bad paths and under each of our policies."""
