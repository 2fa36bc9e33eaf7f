"""What the entry points share."""
