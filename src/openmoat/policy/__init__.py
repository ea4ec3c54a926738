"""Traffic selectors and the ordered security policy database (RFC 4301 4.4.1). Pure."""
