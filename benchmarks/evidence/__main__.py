"""`python -m benchmarks.evidence FOLDER`: see scores.py."""

from benchmarks.evidence.scores import main

main()
