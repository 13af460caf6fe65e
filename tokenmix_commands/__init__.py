"""The commands of `tokenmix`: a file for each group of its help, each command a thin shell over one Python call.

`tokenmix --help` imports all of them, so everything heavy is imported inside the commands.
"""
