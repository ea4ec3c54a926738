"""The octets of IKE messages: numbers, payloads, messages, fragments, and what each message may hold. RFC 7296 section 3."""
