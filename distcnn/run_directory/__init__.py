"""What a run leaves behind: its directory, checkpoints, lease, events and metrics. No torch."""
