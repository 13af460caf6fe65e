"""What the commands are given: options that several share, their values, and files of them."""
