"""What shows rows to people: tables and pictures."""
