"""Context digits: handwritten digits on real photographs, with pixel masks, generated offline."""
