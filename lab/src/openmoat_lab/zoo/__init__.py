"""A zoo of servers: how each kind deals with packets that are too large, over bad paths and under each of our policies."""
