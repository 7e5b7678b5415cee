"""What is measured: latency, memory and quality."""
