"""What a trained student looks at, and how much of an image it needs: the paper's Figures 3 to 8 from your own data."""
