"""What happens when a compiled program runs: programs, threads, data, training, reports."""
