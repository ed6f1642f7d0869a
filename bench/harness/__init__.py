"""What measures: trials in turn, crews of processes, rows with their conditions."""
