"""What a run writes and reads in its folder."""
