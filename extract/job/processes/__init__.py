"""The processes of one worker: how a stop ends them, which image each has in hand, and which one takes too long."""
