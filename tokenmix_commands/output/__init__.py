"""What the commands say: messages, tables, the progress bar."""
