"""Pages: designs and scans as one HTML file that needs no network."""
