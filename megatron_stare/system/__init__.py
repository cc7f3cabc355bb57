"""What a program without models could use too: files that last, processes, signals, settings."""
