"""The report of a compilation as one HTML page that needs nothing else: no network, no script."""
