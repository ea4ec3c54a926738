"""Algorithms, key material, identities and AUTH signatures. Pure; composes pyca/cryptography."""
