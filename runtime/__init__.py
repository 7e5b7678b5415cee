"""Live use: the command line, and what opens devices."""
