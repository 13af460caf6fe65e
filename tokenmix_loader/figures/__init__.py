"""For people to look at: a picture of mixed pairs (`show`), a page about a whole store (`report`)."""
