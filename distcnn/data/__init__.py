"""What a run trains on: verified arrays, kept once per machine and shared by all its processes."""
