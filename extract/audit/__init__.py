"""Whether a store still fits its images and its teacher."""
