"""Shows rows to people: tables and pictures.

Imports: the harness, for its rows; the report's colours.
"""
