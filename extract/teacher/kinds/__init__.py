"""What is computed per image, one class per kind.

To add a kind, write its class in a file here: a subclass of `TokenKind` (from_tokens.py), if its maps are made of the
tokens before the pooling, else of `Kind` (base.py). The class gives its name, the datasets that it fills, the forms of
route that it can use, and how maps are made of images. What else it needs it checks when it is made, and refuses by a
TeacherError with the remedy. An option of its own becomes a field of `TeacherSpec`, whose name the class lists in
`options`, and goes into its `header()`, so that the audit can build the same teacher again.

Then name it in three places: `KIND_CLASSES` in registry.py; `KINDS` in store/spec.py, with its datasets and the shape
of their rows; `KINDS` in extract/settings.py, for the command line, which must not load torch. A test holds the three
together (tests/extract/teacher/test_registry.py). `MapStore.read` reads a kind of one plane per row as it is; one with
more planes needs a method of its own there.
"""
