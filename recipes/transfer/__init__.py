"""What a student learned, on another task: semantic segmentation (TokenMix, Tables 4 and 13)."""
