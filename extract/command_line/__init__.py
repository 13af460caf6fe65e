"""What the commands share: options, messages, the progress bar."""
