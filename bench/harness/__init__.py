"""Measures: trials that take turns, crews of processes, rows with their conditions."""
