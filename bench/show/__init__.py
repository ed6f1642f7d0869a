"""Shows rows to people, as tables and pictures."""
