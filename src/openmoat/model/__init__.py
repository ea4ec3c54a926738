"""What an operator asked for, as frozen and always valid dataclasses. Pure."""
